"""Scores of finished runs, from run folders and tables."""
