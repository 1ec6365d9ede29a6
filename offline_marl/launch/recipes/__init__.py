"""Recipes: pipelines of commands in one file, whose stages are cached by content."""
