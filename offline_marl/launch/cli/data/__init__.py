"""The commands of `offline-marl data`, a file each."""
