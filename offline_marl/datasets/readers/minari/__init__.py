"""Minari's folders, read without minari itself."""

from offline_marl.datasets.readers.minari.reader import opened as opened
