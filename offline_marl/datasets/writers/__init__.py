"""Data written for others: published formats, cards, the hub."""
