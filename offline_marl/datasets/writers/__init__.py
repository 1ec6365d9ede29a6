"""Formats that others read, a file each; what a format has no place for travels in it as JSON, for our readers."""
