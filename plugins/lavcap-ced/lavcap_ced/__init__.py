"""CED audio encoder for lavcap, with both of its front ends."""
