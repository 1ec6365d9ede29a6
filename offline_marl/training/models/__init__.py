"""Fits of world models, and the reports that say how far they can be trusted."""
