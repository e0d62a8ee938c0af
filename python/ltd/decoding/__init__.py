"""The cycle: draft, verify, accept, commit, and what stands around it in one request."""
