"""Recorded behaviour in an environment becomes a data set."""
