"""Forwards over keys and values of our own: on the CPU all layers in one call."""
