"""EAGLE-3 heads: the network, its files, the published layouts, and the draft that runs them."""
