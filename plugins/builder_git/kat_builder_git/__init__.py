"""Builder driver ``git``: finds the commit a branch or tag names. Building itself is not part of this version."""

from __future__ import annotations

__version__ = "1.0.0"
