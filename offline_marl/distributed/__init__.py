"""Coded computation: which worker computes what, and what can be recovered from the answers that arrive."""
