"""Packs a folder for sending, and unpacks what a stranger sent: a hostile ``.tar.gz``, in memory, within hard limits.

The tar format is read here rather than by a library, because a library expands what it reads before one can object:
every size is checked before a byte of it is kept, and only plain files and folders exist at all. Format: POSIX.1-2001
(``ustar`` and ``pax``) and GNU long names.
"""

from __future__ import annotations

import hashlib
import io
import os
import stat
import tarfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from kat_platform.errors import InvalidInput, TooLarge
from kat_platform.quadlet import limits
from kat_platform.quadlet.tar import check_path, read_members

SKIPPED_FOLDERS: Final = frozenset({".git"})
"""Folders that are never packed."""


def unpack(archive: bytes) -> dict[str, bytes]:
    """Give the files of a ``.tar.gz`` by their paths; raises ``TooLarge`` or ``InvalidInput`` naming member and reason.

    If everything lies in one folder, as in an archive *of* a directory, that folder is taken as the root.
    """
    files: dict[str, bytes] = {}
    folders: set[str] = set()
    for path, content in read_members(archive):
        if content is None:
            folders.add(path)
        elif path in files:
            raise InvalidInput(f"archive member '{path}': occurs twice", member=path, reason="duplicate")
        else:
            files[path] = content
        folders.update(_parents(path))
    for path in files:
        if path in folders:
            raise InvalidInput(f"archive member '{path}': is both a file and a folder", member=path, reason="conflict")
    if not files:
        raise InvalidInput("the archive contains no files", reason="empty")
    return _without_single_root(files)


def _parents(path: str) -> list[str]:
    parts = path.split("/")[:-1]
    return ["/".join(parts[: count + 1]) for count in range(len(parts))]


def _without_single_root(files: dict[str, bytes]) -> dict[str, bytes]:
    roots = {path.partition("/")[0] if "/" in path else "" for path in files}
    if len(roots) != 1 or "" in roots:
        return files
    start = len(roots.pop()) + 1
    return {path[start:]: content for path, content in files.items()}


def read_folder(folder: Path) -> dict[str, bytes]:
    """Read the files of a folder by their relative paths, as :func:`pack` sends them; ``.git`` is left out.

    Raises ``InvalidInput`` for links, devices and whatever cannot be read, ``TooLarge`` past the archive's limits.
    """
    if not folder.is_dir():
        raise InvalidInput(f"'{folder}' is not a folder: name the folder with the Quadlet's .kat files")
    files: dict[str, bytes] = {}
    total = 0
    pending = [("", folder)]
    while pending:
        prefix, current = pending.pop()
        for entry in _entries(current):
            path = f"{prefix}{entry.name}"
            mode = _mode(entry)
            if stat.S_ISDIR(mode):
                if entry.name not in SKIPPED_FOLDERS:
                    _check_depth(path)
                    pending.append((f"{path}/", Path(entry.path)))
                continue
            if not stat.S_ISREG(mode):
                raise InvalidInput(f"'{entry.path}' is {_what(mode)}: a Quadlet holds only plain files and folders")
            content = _read_file(entry.path, limits.MAX_UNPACKED - total)
            total += len(content)
            files[path] = content
            if len(files) > limits.MAX_ENTRIES:
                raise TooLarge(f"'{folder}' has more than {limits.MAX_ENTRIES} files", limit=limits.MAX_ENTRIES)
    if not files:
        raise InvalidInput(f"'{folder}' contains no files")
    return dict(sorted(files.items()))


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as found:
            return sorted(found, key=lambda entry: entry.name)
    except OSError as error:
        raise InvalidInput(f"'{folder}' cannot be read: {error.strerror}") from None


def _mode(entry: os.DirEntry[str]) -> int:
    try:
        return entry.stat(follow_symlinks=False).st_mode
    except OSError as error:
        raise InvalidInput(f"'{entry.path}' cannot be read: {error.strerror}") from None


def _check_depth(path: str) -> None:
    if path.count("/") >= limits.MAX_DEPTH:
        raise TooLarge(f"'{path}' lies deeper than {limits.MAX_DEPTH} folders", limit=limits.MAX_DEPTH)


def _read_file(path: str, room: int) -> bytes:
    try:
        # O_NOFOLLOW and O_NONBLOCK: it may have been replaced by a link or a fifo since it was looked at.
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(descriptor, "rb") as file:
            content = file.read(room + 1)
    except OSError as error:
        raise InvalidInput(f"'{path}' cannot be read: {error.strerror}") from None
    if len(content) > room:
        limit = limits.MAX_UNPACKED
        raise TooLarge(f"with '{path}' the Quadlet has more than {limit} bytes", limit=limit)
    return content


def _what(mode: int) -> str:
    kinds = {
        stat.S_IFLNK: "a symbolic link",
        stat.S_IFIFO: "a fifo",
        stat.S_IFSOCK: "a socket",
        stat.S_IFCHR: "a device",
        stat.S_IFBLK: "a device",
    }
    return kinds.get(stat.S_IFMT(mode), "a special file")


def pack(folder: Path) -> bytes:
    """Pack a folder as a ``.tar.gz``: the same files always give the same bytes. Raises as :func:`read_folder`."""
    return pack_files(read_folder(folder))


def pack_files(files: Mapping[str, bytes]) -> bytes:
    """Pack files by their paths: sorted, without times, owners and modes.

    Raises ``TooLarge`` or ``InvalidInput`` for whatever :func:`unpack` would refuse.
    """
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for path, content in sorted(files.items()):
            name = path.encode("utf-8", "surrogateescape")
            member = tarfile.TarInfo(check_path(name, folder=False))
            member.size = len(content)
            member.mode = 0o644
            tar.addfile(member, io.BytesIO(content))
    if buffer.tell() > limits.MAX_UNPACKED:
        raise TooLarge(f"the Quadlet has more than {limits.MAX_UNPACKED} bytes", limit=limits.MAX_UNPACKED)
    packer = zlib.compressobj(level=6, wbits=31)
    packed = packer.compress(buffer.getbuffer()) + packer.flush()
    if len(packed) > limits.MAX_COMPRESSED:
        limit = limits.MAX_COMPRESSED
        raise TooLarge(f"the packed Quadlet has {len(packed)} bytes: at most {limit} are accepted", limit=limit)
    return packed


def digest(files: Mapping[str, bytes]) -> str:
    """Give ``sha256:...`` over paths and contents: equal exactly when the files are."""
    sums = hashlib.sha256()
    for path, content in sorted(files.items()):
        name = path.encode("utf-8", "surrogateescape")
        sums.update(len(name).to_bytes(8, "big") + name + len(content).to_bytes(8, "big") + content)
    return f"sha256:{sums.hexdigest()}"
