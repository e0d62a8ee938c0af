"""Training other people's methods, `ltd train-baseline`."""
