"""Ablations: one base spec, named changes, a training run for each, and a table of what came out. No torch here.

`plan` reads a sweep's file and checks the spec of every run; `work` trains them, each in a process of its own; `table`
gathers the results and sets published numbers beside them.
"""
