"""The metrics of captioning, as the reference implementations compute them. Needs no torch."""
