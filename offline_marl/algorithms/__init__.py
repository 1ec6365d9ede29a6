"""One file an algorithm; the file's name is the registry key."""
