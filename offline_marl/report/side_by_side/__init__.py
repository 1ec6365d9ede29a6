"""Two to four runs on one page: films that play together, curves, settings that differ, labels beside reward models."""
