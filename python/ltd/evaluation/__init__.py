"""`ltd eval` and `ltd check`: methods beside each other on the same questions, and their texts compared."""
