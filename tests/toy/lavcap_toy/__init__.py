"""A plugin for tests: it says how loud and how bright a clip is, so that every number can be checked by hand."""
