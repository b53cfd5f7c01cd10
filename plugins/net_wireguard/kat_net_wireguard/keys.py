"""The node's WireGuard key: made on first use, kept 0600, leaves the host in sealed backups only."""

from __future__ import annotations

import base64
import binascii
import os
from pathlib import Path

from kat_platform.errors import Conflict, InvalidValue, NetworkFailure

KEY_FILE = "private.key"


def load_or_make(folder: Path) -> bytes:
    """Give the 32 bytes of the private key, making it when there is none. Two callers at once get the same key."""
    from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey  # 8 MB, needed only here

    path = folder / KEY_FILE
    if not path.exists():
        _write_new(folder, X25519PrivateKey.generate().private_bytes_raw())
    try:
        key = base64.b64decode(path.read_bytes().strip(), validate=True)
    except binascii.Error:
        key = b""
    if len(key) != 32:
        raise NetworkFailure(f"{path} is not a WireGuard key", hint="remove it to make a new one for peers to learn")
    return key


def take(folder: Path, secret: bytes) -> None:
    """Make this the private key; raises ``Conflict`` when there is another one, ``InvalidValue`` when it is none."""
    if len(secret) != 32:
        raise InvalidValue("this is not a WireGuard key: 32 bytes are needed")
    _write_new(folder, secret)
    if load_or_make(folder) != secret:
        raise Conflict(f"{folder / KEY_FILE} holds another key already", hint="nothing was changed")


def _write_new(folder: Path, key: bytes) -> None:
    """Write a key whole or not at all, and never over one that came first."""
    fresh = folder / f"{KEY_FILE}.{os.getpid()}"
    fresh.unlink(missing_ok=True)
    handle = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(handle, "wb") as file:
        file.write(base64.b64encode(key) + b"\n")
        file.flush()
        os.fsync(file.fileno())
    try:
        os.link(fresh, folder / KEY_FILE)
    except FileExistsError:
        pass
    finally:
        fresh.unlink()


def public_of(private: bytes) -> str:
    """Give the public key as WireGuard writes it (base64)."""
    from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

    return base64.b64encode(X25519PrivateKey.from_private_bytes(private).public_key().public_bytes_raw()).decode()


def decode(public_key: str) -> bytes:
    """Check and decode a public key as WireGuard writes it."""
    try:
        key = base64.b64decode(public_key, validate=True)
    except (binascii.Error, ValueError):
        key = b""
    if len(key) != 32:
        raise InvalidValue(f"{public_key!r} is not a WireGuard public key: 32 bytes in base64 are needed")
    return key
