"""A complete small lavcap pipeline that captions on any CPU, without a model hub."""
