"""Aggregates, intervals and comparisons of scores."""
