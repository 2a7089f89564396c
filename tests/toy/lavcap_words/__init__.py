"""A plugin for tests: metrics in pure Python whose every number can be counted on fingers; imports no torch."""
