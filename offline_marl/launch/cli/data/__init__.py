"""Commands of `offline-marl data`, a file each."""
