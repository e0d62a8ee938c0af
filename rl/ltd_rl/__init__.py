"""Traces of greedy generations, and what is learned from them.

Imports `ltd`; of `ltd` only the command line imports this.
"""
