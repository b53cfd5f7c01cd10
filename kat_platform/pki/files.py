"""Keys and certificates on disk: whole or not at all, and private from the first byte."""

from __future__ import annotations

import os
import secrets
from pathlib import Path
from typing import Final

from kat_platform.errors import HostNotReady, NotFound

PRIVATE: Final = 0o600
PUBLIC: Final = 0o644


def private_folder(folder: Path) -> Path:
    """Make a folder that only its owner may enter (0700), or narrow one that exists."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    folder.chmod(0o700)
    return folder


def write_whole(path: Path, data: bytes, *, mode: int = PRIVATE) -> None:
    """Write a file so that after any crash it holds either the old content or the new one.

    The file has ``mode`` before it has content: a private key is never readable by others, not even for a moment.
    """
    draft = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    handle = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    try:
        with os.fdopen(handle, "wb") as file:
            os.fchmod(file.fileno(), mode)  # the umask may have taken bits away
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def read_public(path: Path) -> bytes:
    """Read a certificate; raises ``NotFound`` when there is none."""
    try:
        return path.read_bytes()
    except FileNotFoundError as error:
        raise NotFound(f"there is no file {path}") from error


def read_private(path: Path) -> bytes:
    """Read a private key; refuses one that others could have read as well, as ssh does."""
    data = read_public(path)
    mode = path.stat().st_mode
    if mode & 0o077:
        raise HostNotReady(
            f"{path} can be read by others (mode {mode & 0o777:04o})",
            hint=f"chmod 600 {path}, and replace the key if others were on this machine",
        )
    return data
