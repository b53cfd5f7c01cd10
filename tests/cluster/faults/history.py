"""History: what happened in a fault run, one JSON object a line, in the order it became known.

Every entry has ``kind`` and ``at`` (seconds of the machine's monotonic clock, when it ended); what takes time has
``began`` too.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Self

Entry = dict[str, Any]


class History:
    """A file that several threads append to."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.Lock()
        self._file = path.open("a", buffering=1)

    def add(self, kind: str, **fields: Any) -> None:
        """Write an entry; ``at`` is now unless it is given."""
        line = json.dumps({"at": round(time.monotonic(), 4), "kind": kind, **fields})
        with self._lock:
            if not self._file.closed:
                self._file.write(line + "\n")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._file.close()


def read(path: Path) -> list[Entry]:
    """Read a history whole, by time."""
    return in_order(json.loads(line) for line in path.read_text().splitlines())


def in_order(entries: Iterable[Entry]) -> list[Entry]:
    """Sort entries by time."""
    return sorted(entries, key=lambda entry: entry["at"])
