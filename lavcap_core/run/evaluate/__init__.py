"""Captions against references: reading, scoring, comparing, reporting. Light: needs no torch."""
