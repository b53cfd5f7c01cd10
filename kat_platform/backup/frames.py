"""Frames: a stream of any length, sealed in pieces, so that nothing can be taken out, put in, moved or changed unseen.

Each frame is sealed with AES-256-GCM under a key of this one archive (derived from the recovery key and the header's
salt). Its nonce is its number; its kind and the header's digest are authenticated with it. The last frame says that it
is the last. So a frame only opens at its own place of its own archive, and an end that is missing is found.
"""

from __future__ import annotations

from collections.abc import Iterator
from enum import IntEnum
from hashlib import sha256
from typing import IO, Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from kat_platform.errors import BackupUnusable

FRAME_BYTES: Final = 256 * 1024
"""Bytes of content in one frame, at most: this much memory is needed, however large the archive is."""
_HEAD_BYTES: Final = 5
_TAG_BYTES: Final = 16


class Kind(IntEnum):
    """What a frame holds."""

    MANIFEST = 1
    SNAPSHOT = 2
    END = 3


class Sealer:
    """Seals frames, or opens them; counts them, so one object serves one pass over one archive."""

    def __init__(self, secret: bytes, salt: bytes, header: bytes) -> None:
        derived = HKDF(hashes.SHA256(), 32, salt=salt, info=b"KAT backup archive 1").derive(secret)
        self._cipher = AESGCM(derived)
        self._bound = sha256(header).digest()
        self._number = 0

    def seal(self, kind: Kind, content: bytes) -> bytes:
        """Give the next frame as it is written."""
        if len(content) > FRAME_BYTES:
            raise ValueError("a frame holds less than this")
        sealed = self._cipher.encrypt(self._next(), content, self._bound + bytes([kind]))
        return bytes([kind]) + len(sealed).to_bytes(4) + sealed

    def open(self, kind: int, sealed: bytes) -> bytes:
        """Give the content of the next frame; raises ``BackupUnusable``."""
        number = self._number
        try:
            return self._cipher.decrypt(self._next(), sealed, self._bound + bytes([kind]))
        except InvalidTag:
            text = "it is sealed with another key, or its beginning was changed" if number == 0 else "it was changed"
            raise BackupUnusable(f"frame {number} of the archive does not open: {text}") from None

    def _next(self) -> bytes:
        nonce = self._number.to_bytes(12)
        self._number += 1
        return nonce


def opened(file: IO[bytes], sealer: Sealer) -> Iterator[tuple[Kind, bytes]]:
    """Give kind and content of each frame, the last one included; raises ``BackupUnusable`` at the first fault."""
    while True:
        head = _exactly(file, _HEAD_BYTES)
        kind, length = head[0], int.from_bytes(head[1:])
        if kind not in Kind.__members__.values() or not _TAG_BYTES <= length <= FRAME_BYTES + _TAG_BYTES:
            raise BackupUnusable("the archive is damaged: what should be a frame is none")
        yield Kind(kind), sealer.open(kind, _exactly(file, length))
        if kind == Kind.END:
            if file.read(1):
                raise BackupUnusable("the archive is damaged: something follows its end")
            return


def _exactly(file: IO[bytes], size: int) -> bytes:
    data = file.read(size)
    if len(data) != size:
        raise BackupUnusable("the archive is not whole: its end is missing")
    return data
