"""Drivers that keep everything in memory, for tests and for trying things out: they pass the same kits."""
