"""Tools for tests of plugins: the conformance kit, and clips made on the spot."""
