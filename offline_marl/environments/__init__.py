"""Simulators, many copies side by side, seen and moved by several agents."""
