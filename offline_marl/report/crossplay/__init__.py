"""Cross-play: agents of different runs in one team."""
