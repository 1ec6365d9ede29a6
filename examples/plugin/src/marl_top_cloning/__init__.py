"""Top cloning for offline-marl. Imports nothing: `offline-marl list` should stay quick."""
