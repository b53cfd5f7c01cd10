"""KAT's default store: etcd, run as a child of the agent on a Unix socket, or reached elsewhere over TLS."""

from __future__ import annotations

__version__ = "1.0.0"
