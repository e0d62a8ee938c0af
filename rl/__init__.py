"""Traces of greedy generations, and what is learned from them.

Imports `ltd`; only `ltd`'s command line imports this.
"""
