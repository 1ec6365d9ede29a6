"""Data collection: episodes of behaviour policies in an environment become a data set."""
