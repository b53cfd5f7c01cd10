"""The hard limits of a Quadlet. Generous for what people write, small for a server that many may call."""

from __future__ import annotations

from typing import Final

MAX_COMPRESSED: Final = 8 * 1024 * 1024
"""Bytes of the ``.tar.gz``."""
MAX_UNPACKED: Final = 64 * 1024 * 1024
"""Bytes of the tar stream within, headers included."""
MAX_ENTRIES: Final = 10_000
"""Members of the archive, folders and extended headers included."""
MAX_EXTENDED_HEADER: Final = 64 * 1024
"""Bytes of one pax or GNU long-name header."""
MAX_PATH: Final = 1024
"""Bytes of a member's path."""
MAX_PATH_PART: Final = 255
"""Bytes of one part of a path, as on Linux filesystems."""
MAX_DEPTH: Final = 32
"""Folders within folders."""

MAX_DOCUMENT_BYTES: Final = 1024 * 1024
"""Bytes of one ``.kat`` file."""
MAX_DOCUMENT_FILES: Final = 200
"""``.kat`` files of one Quadlet."""
MAX_DOCUMENTS: Final = 200
"""Documents in one file."""
MAX_NESTING: Final = 64
"""Mappings and lists within each other."""
MAX_NODES: Final = 50_000
"""YAML nodes of all documents together, after aliases are written out."""
MAX_EXPANDED_TEXT: Final = 4 * 1024 * 1024
"""Characters of all scalars of all documents together, after aliases are written out."""
MAX_PROBLEMS: Final = 100
"""Problems reported of one Quadlet; reading ends soon after, since finding what was meant costs time."""
MAX_CANDIDATES: Final = 200
"""Names that are compared to find the one that was meant."""
