"""Data sets from people's own arrays: episodes, ends and presence, and mistakes that are refused."""
