"""Checkpoints that LAVCap's released code leaves, made into a spec and trained parameters of ours.

`files` reads them, `names` says what each tensor is, `convert` checks and writes.
"""
