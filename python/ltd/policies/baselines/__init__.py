"""Other people's learned rules, and what they are made of."""
