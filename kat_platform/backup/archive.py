"""Archive: the one file of a backup. Written whole or not at all, and read with everything checked.

A header in the clear says what the file is (and is bound to all that follows), then come sealed frames: the manifest
(the CA's files and whatever else makes a control-plane node), the store's snapshot, and an end with its digest.
"""

from __future__ import annotations

import hashlib
import json
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, Final

from pydantic import Field, ValidationError

from kat_platform.backup.frames import FRAME_BYTES, Kind, Sealer, opened
from kat_platform.backup.key import RecoveryKey
from kat_platform.errors import BackupUnusable, NotFound
from kat_platform.model.base import Model

MAGIC: Final = b"KAT-BACKUP\n"
FORMAT: Final = 1
HEADER_LIMIT: Final = 64 * 1024
MANIFEST_LIMIT: Final = 64 * 1024 * 1024


class Header(Model):
    """What everybody may know of an archive; times in seconds since the epoch."""

    format: int = FORMAT
    cluster_id: str
    node: str
    """Which node made it."""
    created_at: float
    version: str
    """KAT's version."""
    key_id: str
    """Which recovery key opens it; see ``RecoveryKey.id``."""
    salt: str
    revision: int
    """The store's revision when it was begun."""
    state: str
    """Digest of the keys that were there and their revisions, events and audit records left out: the same while
    nothing has changed."""


class Manifest(Model):
    """What makes a control-plane node of this cluster, beside the store's content."""

    ca_files: dict[str, str] = Field(repr=False)
    """The CA's files, by their names in the pki folder."""
    network_secret: str = Field(default="", repr=False)
    """What the node's overlay key comes from, where its driver gives it out (base64)."""
    view: dict[str, Any]
    """What a node must know to come up: the items ``cluster`` and ``node/NAME`` of a node's view."""


class End(Model):
    """Closes an archive: what the snapshot was, as it was written."""

    bytes: int
    sha256: str
    keys: int | None = None
    """How many keys are in the snapshot, those of leases left out; ``None`` when it changed while it was taken."""
    inventory: str = ""
    """Digest of these keys and their revisions."""


class Writer:
    """Writes an archive into an open file. Blocking; every step raises ``OSError`` when the disk does."""

    def __init__(self, file: IO[bytes], header: Header, key: RecoveryKey) -> None:
        self._file, self._digest, self._size = file, hashlib.sha256(), 0
        head = header.to_json()
        start = MAGIC + len(head).to_bytes(4) + head
        self._sealer = Sealer(key.secret, bytes.fromhex(header.salt), start)
        file.write(start)

    def manifest(self, manifest: Manifest) -> None:
        """Write the manifest: first of all, and once."""
        data = manifest.to_json()
        for start in range(0, len(data), FRAME_BYTES):
            self._file.write(self._sealer.seal(Kind.MANIFEST, data[start : start + FRAME_BYTES]))

    def snapshot(self, part: bytes) -> None:
        """Write a part of the snapshot."""
        for start in range(0, len(part), FRAME_BYTES):
            self._file.write(self._sealer.seal(Kind.SNAPSHOT, part[start : start + FRAME_BYTES]))
        self._digest.update(part)
        self._size += len(part)

    def end(self, keys: int | None, inventory: str) -> End:
        """Close the archive."""
        end = End(bytes=self._size, sha256=self._digest.hexdigest(), keys=keys, inventory=inventory)
        self._file.write(self._sealer.seal(Kind.END, end.to_json()))
        return end


def new_salt() -> str:
    """Make the salt of one archive: no two archives are sealed with the same key."""
    return secrets.token_hex(32)


def read_header(path: Path) -> Header:
    """Read what everybody may know of an archive, unchecked; raises ``BackupUnusable`` or ``NotFound``."""
    try:
        with path.open("rb") as file:
            return _start(file, path.name)[0]
    except FileNotFoundError:
        raise NotFound(f"there is no file {path}") from None


class Reader:
    """One pass over an archive: header, manifest, the snapshot's parts, the end; each checked before it is given."""

    def __init__(self, file: IO[bytes], name: str, key: RecoveryKey) -> None:
        self.header, start = _start(file, name)
        if self.header.key_id != key.id:
            raise BackupUnusable(
                f"{name} was sealed with recovery key {self.header.key_id}, and this is key {key.id}",
                hint="give the key of the cluster and time that the archive is from, with --key-file",
            )
        self._frames = opened(file, Sealer(key.secret, bytes.fromhex(self.header.salt), start))
        self._first: bytes | None = None
        self.manifest = self._read_manifest()
        self.end: End | None = None

    def _read_manifest(self) -> Manifest:
        data = bytearray()
        for kind, content in self._frames:
            if kind is not Kind.MANIFEST:
                if kind is Kind.END:
                    break
                self._first = content
                try:
                    return Manifest.from_json(bytes(data))
                except ValidationError:
                    break
            data += content
            if len(data) > MANIFEST_LIMIT:
                break
        raise BackupUnusable("the archive is damaged: it has no manifest that can be read")

    def snapshot(self) -> Iterator[bytes]:
        """Give the parts of the snapshot; :attr:`end` is there, and was compared, when it is through."""
        digest, size = hashlib.sha256(), 0
        part = self._first
        while part is not None:
            digest.update(part)
            size += len(part)
            yield part
            kind, content = next(self._frames)
            if kind is Kind.END:
                self.end = self._compare(content, digest.hexdigest(), size)
                next(self._frames, None)  # which looks that nothing follows
                return
            if kind is not Kind.SNAPSHOT:
                raise BackupUnusable("the archive is damaged: its parts are in another order")
            part = content

    @staticmethod
    def _compare(content: bytes, digest: str, size: int) -> End:
        try:
            end = End.from_json(content)
        except ValidationError:
            raise BackupUnusable("the archive is damaged: its end cannot be read") from None
        if (end.sha256, end.bytes) != (digest, size):
            raise BackupUnusable("the archive is damaged: the snapshot is not the one that was taken")
        return end


class Checked(Model):
    """What an archive holds, after every byte of it was read and found right."""

    header: Header
    manifest: Manifest = Field(repr=False)
    end: End
    size: int


def check(path: Path, key: RecoveryKey) -> Checked:
    """Read an archive from its first byte to its last, and check all of it. Blocking.

    Raises ``BackupUnusable`` for a wrong key, a changed or missing byte, or another format; ``NotFound``.
    """
    try:
        with path.open("rb") as file:
            reader = Reader(file, path.name, key)
            for _ in reader.snapshot():
                pass
            size = file.tell()
    except FileNotFoundError:
        raise NotFound(f"there is no file {path}") from None
    assert reader.end is not None  # the generator came to its end
    return Checked(header=reader.header, manifest=reader.manifest, end=reader.end, size=size)


def _start(file: IO[bytes], name: str) -> tuple[Header, bytes]:
    start = file.read(len(MAGIC) + 4)
    length = int.from_bytes(start[len(MAGIC) :])
    if start[: len(MAGIC)] != MAGIC or len(start) != len(MAGIC) + 4 or length > HEADER_LIMIT:
        raise BackupUnusable(f"{name} is no backup of KAT's, or its beginning is damaged")
    head = file.read(length)
    found = _format(head)
    if found is not None and found != FORMAT:
        raise BackupUnusable(
            f"{name} has format {found}, and this version of KAT reads format {FORMAT}",
            hint="use the version of KAT that made it, or a newer one",
        )
    try:
        header = Header.from_json(head)
        bytes.fromhex(header.salt)
    except ValueError:
        raise BackupUnusable(f"the beginning of {name} is damaged") from None
    return header, start + head


def _format(head: bytes) -> int | None:
    try:
        found = json.loads(head)["format"]
    except (ValueError, KeyError, TypeError):
        return None
    return found if isinstance(found, int) else None
