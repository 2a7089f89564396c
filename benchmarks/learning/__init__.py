"""Is anything learnt? LAVCap's Table II at small size, on real sounds and pictures; see `__main__`."""
