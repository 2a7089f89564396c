"""A stand-in for Habana's software: the same names, each call noted in `calls`, computed by torch.

What is in it follows Intel's public documentation; none of it is theirs.
"""

calls: list[str] = []
"""Names of what was called, in order."""
