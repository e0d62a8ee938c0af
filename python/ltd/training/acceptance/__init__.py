"""Training an acceptance head for chains, `ltd train-acceptance`."""
