"""Learned policies: what they read, their networks, their files, and how they decide."""
