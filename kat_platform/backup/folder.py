"""Folder: where a node's archives lie, how they are named, which are kept, and when the next one is due."""

from __future__ import annotations

import errno
import os
import re
import secrets
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Final

from kat_platform.backup.archive import Header, read_header
from kat_platform.errors import BackupUnusable, HostNotReady, NotFound
from kat_platform.model.base import Model
from kat_platform.pki.files import PRIVATE, private_folder

SUFFIX: Final = ".katbackup"
RETRY_SECONDS: Final = 300.0
"""Seconds after which a backup that failed is tried again, at most; a shorter interval goes first."""
SPARE_BYTES: Final = 64 * 1024 * 1024
"""Room that a backup leaves on its disk: the store may well lie on the same one."""
_DRAFT: Final = ".draft"
_NAME: Final = re.compile(r"[a-z0-9][A-Za-z0-9.-]{0,199}")


class Backup(Model):
    """One archive as it lies in its folder."""

    name: str
    node: str
    """On which node it lies."""
    size: int
    header: Header


def name_of(cluster_id: str, node: str, created_at: float) -> str:
    """Name an archive: names of one cluster sort by age."""
    when = datetime.fromtimestamp(created_at, UTC)
    return f"{cluster_id}-{when:%Y%m%dT%H%M%S}{when.microsecond // 1000:03d}-{node}"


def path_of(folder: Path, name: str) -> Path:
    """Give where an archive lies; raises ``NotFound`` when it is not there, or cannot be the name of one."""
    path = folder / f"{name}{SUFFIX}"
    if not _NAME.fullmatch(name) or not path.is_file():
        raise NotFound(f"there is no backup '{name[:200]}' on this node", hint="katcall backup ls lists them")
    return path


def backups_in(folder: Path, node: str, cluster_id: str) -> list[Backup]:
    """List the cluster's archives of a folder, oldest first; what is something else is left out. Blocking."""
    found = []
    for path in sorted(folder.glob(f"*{SUFFIX}")):
        try:
            backup = Backup(
                name=path.name.removesuffix(SUFFIX), node=node, size=path.stat().st_size, header=read_header(path)
            )
        except (BackupUnusable, NotFound, OSError):
            continue
        if backup.header.cluster_id == cluster_id and _NAME.fullmatch(backup.name):
            found.append(backup)
    return sorted(found, key=_age)


def _age(backup: Backup) -> tuple[float, str]:
    return backup.header.created_at, backup.name


def surplus(backups: Iterable[Backup], keep: int) -> list[Backup]:
    """Name the archives that are beyond the newest ``keep``, oldest first. Pure."""
    return sorted(backups, key=_age)[: -max(1, keep)]


def seconds_until_due(*, now: float, good_at: float | None, failed_at: float | None, interval: float) -> float:
    """Tell in how many seconds the next backup is due; 0 for now. Pure; all in seconds.

    ``good_at``: when the newest archive was made, or found to hold the present state. A time that lies in the future
    (the clock was set back) counts as now, so that no backup waits longer than ``interval``.
    """
    due = now if good_at is None else min(good_at, now) + interval
    if failed_at is not None:
        due = max(due, min(failed_at, now) + min(interval, RETRY_SECONDS))
    return max(0.0, due - now)


def refuse_full(folder: Path, wanted: int) -> None:
    """Raise ``HostNotReady`` when an archive of so many bytes would fill the disk, on which the store may lie too."""
    free = shutil.disk_usage(folder).free
    if free < wanted + SPARE_BYTES:
        mib = 1024 * 1024
        raise HostNotReady(
            f"{folder} has {free // mib} MiB free, and a backup of about {wanted // mib} MiB is to leave"
            f" {SPARE_BYTES // mib} MiB",
            hint="make room there, or set backupPath in cluster.kat to a folder on another disk",
        )


@contextmanager
def written_whole(path: Path) -> Iterator[IO[bytes]]:
    """Open a draft that becomes ``path`` when the work inside is done, and is gone if it fails. Blocking.

    Raises ``HostNotReady`` when the disk does not take it.
    """
    draft = path.with_name(f".{path.name}.{secrets.token_hex(4)}{_DRAFT}")
    with disk_errors(path.parent):
        handle = os.open(draft, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, PRIVATE)
        try:
            with os.fdopen(handle, "w+b") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            draft.replace(path)
        finally:
            draft.unlink(missing_ok=True)
        folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


@contextmanager
def disk_errors(folder: Path) -> Iterator[None]:
    """Turn what a disk refuses into an error that says what to do."""
    try:
        yield
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        hint = "make room there" if full else "is the folder there, and may root write to it?"
        raise HostNotReady(
            f"no backup can be written to {folder}: {error.strerror or error}",
            hint=f"{hint}; backupPath in cluster.kat may name a folder on another disk",
        ) from error


def trial_prefix(node: str) -> str:
    """Give how the names of folders begin in which a node restores archives for a trial."""
    return f".verify-{node}."


def prepare(folder: Path, node: str) -> None:
    """Make the folder, for its owner only, and remove drafts and trials of this node that a crash has left."""
    with disk_errors(folder):
        private_folder(folder)
        for trial in folder.glob(f"{trial_prefix(node)}*"):
            shutil.rmtree(trial, ignore_errors=True)
        for draft in folder.glob(f".*-{node}{SUFFIX}.*{_DRAFT}"):
            draft.unlink(missing_ok=True)


def remove(folder: Path, backups: Iterable[Backup]) -> None:
    """Remove archives. One that is gone is no error."""
    with disk_errors(folder):
        for backup in backups:
            (folder / f"{backup.name}{SUFFIX}").unlink(missing_ok=True)
