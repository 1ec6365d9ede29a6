"""What a package of its own adds to offline-marl. Imports nothing: `offline-marl list` should stay quick."""
