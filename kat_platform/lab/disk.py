"""Disk: a file system of its own for each machine of a lab, so that one can be full while the others are not.

It lies in a sparse file beside the machine's folder and is mounted there while the machine is on. Only a lab that was
made with a size for it has one: otherwise all machines share the host's disk.
"""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Final

from kat_platform.errors import Conflict
from kat_platform.lab.home import Home
from kat_platform.lab.plan import Lab, LabNode
from kat_platform.lab.shell import run
from kat_platform.pki.files import private_folder

BALLAST: Final = "ballast"
"""The file that fills a disk."""


def attach(home: Home, lab: Lab, node: LabNode) -> None:
    """Make a machine's disk, if it shall have one and has none yet, and mount it. Idempotent."""
    if lab.disk_mib is None:
        return
    image, data = home.disk(node), home.data(node)
    private_folder(home.node(node))
    if not image.exists():
        draft = image.with_suffix(".new")
        with draft.open("wb") as file:
            file.truncate(lab.disk_mib * 1024**2)
        run("mkfs.ext4", "-q", "-F", "-m", "0", str(draft))
        draft.rename(image)
    data.mkdir(mode=0o700, exist_ok=True)
    if not data.is_mount():
        # A device that a lazy unmount still holds is used again: mount(8) never makes two for one file.
        run("mount", "-o", "loop", str(image), str(data))
        data.chmod(0o700)


def fill(home: Home, lab: Lab, node: LabNode) -> None:
    """Leave no room on a machine's disk; raises ``Conflict`` where it has no disk of its own, or is off."""
    data = home.data(node)
    if lab.disk_mib is None:
        raise Conflict(
            f"the machines of lab '{lab.name}' share the host's disk, and that shall not be filled",
            hint="make the lab with 'katcall lab up --disk 512': each node then has a disk of its own",
        )
    if not data.is_mount():
        raise Conflict(f"{node.name} is off, and its disk with it", hint=f"katcall lab start {node.name}")
    handle = os.open(data / BALLAST, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        _take_all(handle)
    finally:
        os.close(handle)


def _take_all(handle: int) -> None:
    """Take every free block, in ever smaller pieces: room is set aside, nothing is written."""
    piece = 256 * 1024**2
    end = os.fstat(handle).st_size
    while piece >= 4096:
        try:
            os.posix_fallocate(handle, end, piece)
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise
            piece //= 2
        else:
            end += piece


def empty(home: Home, node: LabNode) -> None:
    """Make room again on a machine's disk. Idempotent."""
    (home.data(node) / BALLAST).unlink(missing_ok=True)


def is_full(data: Path) -> bool:
    """Tell whether a machine's disk was filled."""
    return (data / BALLAST).exists()
