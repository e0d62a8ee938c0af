"""Learning to Draft."""
