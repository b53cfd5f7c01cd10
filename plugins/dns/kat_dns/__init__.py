"""DNS driver ``kat``: authoritative for the cluster's names on each node, forwarding the rest."""

from __future__ import annotations

__version__ = "1.0.0"
