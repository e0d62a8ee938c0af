"""The cycle inside `generate` of `transformers`."""
