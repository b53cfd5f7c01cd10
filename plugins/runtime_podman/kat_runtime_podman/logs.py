"""Container output, read from the files conmon writes: cheap, and also possible while Podman's service is down.

Format ``k8s-file``: ``2024-01-01T00:00:00.000000000+00:00 stdout F text``, flag ``P`` for a part of a line whose end
follows (conmon/src/ctr_logging.c). A file that would grow beyond its limit starts afresh, by renaming a new file over
it. A container that is started again goes on writing to the same file.
"""

from __future__ import annotations

import asyncio
import os
from collections import deque
from collections.abc import AsyncGenerator, Callable, Iterator
from pathlib import Path
from typing import IO, Final

from kat_platform.interfaces.runtime import LogLine
from kat_runtime_podman.translate import parse_time

_FOLLOW_SECONDS: Final = 0.1
"""How often a follower looks for more; only while somebody follows."""
_BLOCK: Final = 1 << 18
LINE_LIMIT: Final = 1 << 20
"""Characters after which a line without end is given as it is."""


class Joiner:
    """Turns the file's records into lines, joining parts per stream. Pure."""

    def __init__(self) -> None:
        self._parts: dict[str, tuple[float, list[str], int]] = {}

    def feed(self, record: bytes) -> LogLine | None:
        """Take one record (without newline); gives a line when one is complete. A malformed record is passed over."""
        pieces = record.decode(errors="replace").split(" ", 3)
        if len(pieces) != 4 or pieces[1] not in ("stdout", "stderr") or pieces[2][:1] not in ("P", "F"):
            return None
        try:
            at = parse_time(pieces[0])
        except ValueError:
            return None
        stream, text = pieces[1], pieces[3]
        first, texts, size = self._parts.pop(stream, (at, [], 0))
        texts.append(text)
        if pieces[2][:1] == "P" and size + len(text) < LINE_LIMIT:
            self._parts[stream] = (first, texts, size + len(text))
            return None
        return LogLine(first, stream, "".join(texts))

    def rest(self) -> Iterator[LogLine]:
        """Give what has no end yet, at the end of the output."""
        for stream, (at, texts, _) in self._parts.items():
            yield LogLine(at, stream, "".join(texts))
        self._parts.clear()


class _Tailer:
    """Reads a growing file to its present end, again and again, also over its replacement by a new one."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: IO[bytes] | None = None
        self._rest = b""

    def records(self) -> Iterator[bytes]:
        """Give the complete records there are now."""
        while True:
            if self._file is None:
                try:
                    self._file = self._path.open("rb")
                except FileNotFoundError:
                    return
            while block := self._file.read(_BLOCK):
                *records, self._rest = (self._rest + block).split(b"\n")
                yield from records
            if not self._replaced():
                return
            self._file.close()
            self._file, self._rest = None, b""

    def _replaced(self) -> bool:
        assert self._file is not None
        try:
            there, here = os.stat(self._path), os.fstat(self._file.fileno())
        except FileNotFoundError:
            return False
        return (there.st_ino, there.st_dev) != (here.st_ino, here.st_dev)

    def close(self) -> None:
        """Let go of the file."""
        if self._file is not None:
            self._file.close()


async def read(
    path: Path, *, follow: bool, tail: int | None, since: float | None, over: Callable[[], bool]
) -> AsyncGenerator[LogLine, None]:
    """Give lines as the contract says; ``over`` tells whether nothing more will be written."""
    tailer, joiner = _Tailer(path), Joiner()
    try:
        last = over()
        held: deque[LogLine] = deque(maxlen=tail)
        for line in _lines(tailer, joiner, since):
            if tail is None:
                yield line
            else:
                held.append(line)
        if not follow or last:
            held.extend(line for line in joiner.rest() if since is None or line.at >= since)
        for line in held:
            yield line
        while follow and not last:
            await asyncio.sleep(_FOLLOW_SECONDS)
            last = over()  # before reading: what was written until then is read below
            for line in _lines(tailer, joiner, since):
                yield line
        for line in joiner.rest():
            if since is None or line.at >= since:
                yield line
    finally:
        tailer.close()


def _lines(tailer: _Tailer, joiner: Joiner, since: float | None) -> Iterator[LogLine]:
    for record in tailer.records():
        line = joiner.feed(record)
        if line is not None and (since is None or line.at >= since):
            yield line
