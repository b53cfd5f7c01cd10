"""Reads the members of a ``.tar.gz`` one after the other, refusing each breach of a limit before it costs anything."""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, NoReturn

from kat_platform.errors import InvalidInput, TooLarge
from kat_platform.quadlet import limits

BLOCK: Final = 512
_CHUNK: Final = 64 * 1024
_REFUSED_TYPES: Final = {
    b"1": "is a hard link",
    b"2": "is a symbolic link",
    b"3": "is a device",
    b"4": "is a device",
    b"6": "is a fifo",
    b"7": "is a contiguous file",
    b"K": "is a link with a long target",
    b"S": "is a sparse file",
    b"M": "is part of a multi-volume archive",
    b"D": "is a dump of a folder",
    b"V": "is a volume label",
}
_PAX_REFUSED: Final = ("GNU.sparse", "size", "linkpath", "hdrcharset", "charset")
"""Pax records that change how a member is read: none is needed for small plain files."""


class _Inflate:
    """A gzip stream read in exact portions; it never expands more than is asked for."""

    def __init__(self, archive: bytes) -> None:
        if len(archive) > limits.MAX_COMPRESSED:
            text = f"the archive has {len(archive)} bytes: at most {limits.MAX_COMPRESSED} are accepted"
            raise TooLarge(text, limit=limits.MAX_COMPRESSED)
        if not archive.startswith(b"\x1f\x8b"):
            raise InvalidInput("the archive is not a .tar.gz: it does not begin with a gzip header", reason="not gzip")
        self._input = memoryview(archive)
        self._inflater = zlib.decompressobj(wbits=31)
        self._pending: bytes = b""
        self._offset = 0
        self._total = 0

    def read(self, size: int) -> bytes:
        """Give the next ``size`` bytes, or fewer at the end of the stream."""
        self._total += size
        if self._total > limits.MAX_UNPACKED:
            text = f"the archive unpacks to more than {limits.MAX_UNPACKED} bytes"
            raise TooLarge(text, limit=limits.MAX_UNPACKED)
        parts: list[bytes] = []
        while size > 0 and (part := self._some(size)):
            parts.append(part)
            size -= len(part)
        return b"".join(parts)

    def _some(self, size: int) -> bytes:
        while not self._inflater.eof:
            if not self._pending:
                self._pending = bytes(self._input[self._offset : self._offset + _CHUNK])
                self._offset += len(self._pending)
            exhausted = not self._pending
            try:
                part = self._inflater.decompress(self._pending, size)
            except zlib.error:
                raise InvalidInput("the archive is damaged: it cannot be decompressed", reason="damaged") from None
            self._pending = self._inflater.unconsumed_tail
            if part:
                return part
            if exhausted:
                raise InvalidInput("the archive is cut short", reason="cut short")
        return b""

    def finish(self) -> None:
        """Read to the end: only zeros may follow, and the checksum must hold."""
        while part := self.read(BLOCK):
            if part.strip(b"\0"):
                raise InvalidInput("there is data after the end of the archive", reason="trailing data")
        if self._inflater.unused_data or self._offset < len(self._input):
            raise InvalidInput("there is data after the end of the archive", reason="trailing data")


@dataclass(frozen=True, slots=True)
class _Header:
    name: bytes
    size: int
    type: bytes


def read_members(archive: bytes) -> Iterator[tuple[str, bytes | None]]:
    """Give path and content of each member, the content of a folder being ``None``.

    Raises ``TooLarge`` or ``InvalidInput`` naming the member and the reason.
    """
    stream = _Inflate(archive)
    long_name: bytes | None = None
    entries = 0
    while (header := _next_header(stream)) is not None:
        entries += 1
        if entries > limits.MAX_ENTRIES:
            raise TooLarge(f"the archive has more than {limits.MAX_ENTRIES} members", limit=limits.MAX_ENTRIES)
        if header.type in (b"x", b"g", b"L"):
            content = _extended(stream, header)
            if header.type == b"L":
                long_name = content.rstrip(b"\0")
            else:
                path = _pax_path(content, shared=header.type == b"g")
                long_name = path if path is not None else long_name
            continue
        raw, long_name = (header.name if long_name is None else long_name), None
        yield from _member(stream, header, raw)
    if long_name is not None:
        raise InvalidInput("the archive is cut short: a header is not followed by its member", reason="cut short")
    stream.finish()


def _member(stream: _Inflate, header: _Header, raw: bytes) -> Iterator[tuple[str, bytes | None]]:
    shown = raw[:200].decode("utf-8", "backslashreplace")
    if header.type in _REFUSED_TYPES:
        _refuse(shown, f"{_REFUSED_TYPES[header.type]}; only plain files and folders are accepted")
    if header.type not in (b"0", b"\0", b"5"):
        _refuse(shown, f"is of the unknown type {header.type!r}; only plain files and folders are accepted")
    folder = header.type == b"5"
    if folder and header.size:
        _refuse(shown, "is a folder with content")
    path = check_path(raw, folder=folder)
    if folder:
        if path:
            yield path, None
        return
    yield path, _content(stream, header.size, shown)


def _content(stream: _Inflate, size: int, shown: str) -> bytes:
    padded = -(-size // BLOCK) * BLOCK
    if padded > limits.MAX_UNPACKED:
        text = f"archive member '{_visible(shown)}': has {size} bytes, at most {limits.MAX_UNPACKED} are accepted"
        raise TooLarge(text, member=_visible(shown), limit=limits.MAX_UNPACKED)
    content = stream.read(padded)
    if len(content) < padded:
        _refuse(shown, "is cut short")
    return content[:size]


def _next_header(stream: _Inflate) -> _Header | None:
    block = stream.read(BLOCK)
    if not block.strip(b"\0"):
        return None
    if len(block) < BLOCK:
        raise InvalidInput("the archive is cut short within a header", reason="cut short")
    total = sum(block[:148]) + 8 * 0x20 + sum(block[156:])
    if _octal(block[148:156]) != total:
        raise InvalidInput(
            "the archive is not a tar file, or is damaged: a header has a wrong checksum", reason="damaged"
        )
    name = block[:100].partition(b"\0")[0]
    if block[257:263] == b"ustar\0" and block[345] != 0:
        name = block[345:500].partition(b"\0")[0] + b"/" + name
    size = _octal(block[124:136])
    if size is None:
        _refuse(name[:200].decode("utf-8", "backslashreplace"), "has a size that is not a number within the limits")
    return _Header(name, size, block[156:157])


def _octal(field: bytes) -> int | None:
    """Read a number; base-256 numbers, which only huge files need, count as none."""
    digits = field.strip(b" \0")
    return int(digits, 8) if re.fullmatch(rb"[0-7]+", digits) else None


def _extended(stream: _Inflate, header: _Header) -> bytes:
    if header.size > limits.MAX_EXTENDED_HEADER:
        text = f"an extended header has {header.size} bytes: at most {limits.MAX_EXTENDED_HEADER} are accepted"
        raise TooLarge(f"archive member '{_visible(header.name[:200].decode('utf-8', 'backslashreplace'))}': {text}")
    return _content(stream, header.size, "extended header")


def _pax_path(content: bytes, *, shared: bool) -> bytes | None:
    path: bytes | None = None
    position = 0
    while position < len(content):
        match = re.compile(rb"([0-9]{1,6}) ([^=\n]+)=").match(content, position)
        end = position + int(match[1]) if match else 0
        if match is None or end > len(content) or end <= match.end() or content[end - 1 : end] != b"\n":
            raise InvalidInput("archive member 'extended header': is malformed", reason="malformed header")
        key = match[2].decode("utf-8", "backslashreplace")
        if key.startswith(_PAX_REFUSED) or (shared and key == "path"):
            raise InvalidInput(
                f"archive member 'extended header': '{_visible(key)}' is not accepted", reason="pax record"
            )
        if key == "path":
            path = content[match.end() : end - 1]
        position = end
    return path


def check_path(raw: bytes, *, folder: bool) -> str:
    """Check a member's path and give it without leading ``./`` (empty for the root folder); raises ``InvalidInput``."""
    shown = raw[:200].decode("utf-8", "backslashreplace")
    try:
        path = raw.decode("utf-8")
    except UnicodeDecodeError:
        _refuse(shown, "has a name that is not UTF-8")
    if len(raw) > limits.MAX_PATH:
        _refuse(shown, f"has a path of more than {limits.MAX_PATH} bytes")
    if path.startswith("/"):
        _refuse(shown, "has an absolute path")
    if re.search(r"[\x00-\x1f\x7f\\]", path):
        _refuse(shown, "has a NUL, control character or backslash in its name")
    if folder:
        path = path.removesuffix("/")
    while path.startswith("./"):
        path = path[2:]
    if folder and path in ("", "."):
        return ""
    parts = path.split("/")
    if ".." in parts:
        _refuse(shown, "has '..' in its path")
    if "" in parts or "." in parts:
        _refuse(shown, "has an empty part or '.' in its path")
    if len(parts) > limits.MAX_DEPTH + 1:
        _refuse(shown, f"lies deeper than {limits.MAX_DEPTH} folders")
    if any(len(part.encode()) > limits.MAX_PATH_PART for part in parts):
        _refuse(shown, f"has a name of more than {limits.MAX_PATH_PART} bytes")
    return path


def _visible(text: str) -> str:
    return "".join(character if character.isprintable() else f"\\x{ord(character):02x}" for character in text)


def _refuse(shown: str, reason: str) -> NoReturn:
    name = _visible(shown)
    raise InvalidInput(f"archive member '{name}': {reason}", member=name, reason=reason)
