"""The model that is accelerated: found, loaded, and verified with."""
