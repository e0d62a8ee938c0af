"""One target over several processes, each with a GPU of its own: the first decides, and all compute their parts."""
