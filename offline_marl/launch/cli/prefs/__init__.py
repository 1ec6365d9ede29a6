"""Commands of `offline-marl prefs`, a file each."""
