"""Statements about finished runs: what they score, how sure that is, and who can play with whom."""
