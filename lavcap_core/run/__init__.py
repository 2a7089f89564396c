"""Runs: captioning many clips, training, evaluating."""
