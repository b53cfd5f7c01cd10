"""Backups: one sealed file with everything that a lost control plane is made again from."""
