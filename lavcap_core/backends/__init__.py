"""Backends: what differs between devices."""
