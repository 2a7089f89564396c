"""Listening studies: a page on which people score captions of several systems, and what their scores say."""
