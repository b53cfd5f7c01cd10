"""Takes away everything the driver ever made: containers, images, mounts, cgroups, processes, files.

Works without a service and after a crash, with what is on the disk and in ``/proc``; it goes on over whatever is
missing or already gone, and says at the end what would not go.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import shutil
import signal as signals
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

import structlog

from kat_platform.errors import DriverError, KatError
from kat_runtime_podman import command
from kat_runtime_podman.layout import Layout

_LOG: Final = structlog.get_logger(__name__)
_UNESCAPED: Final = {r"\040": " ", r"\011": "\t", r"\012": "\n", r"\134": "\\"}


async def reset(layout: Layout, environment: Mapping[str, str]) -> None:
    """Remove all; idempotent. Raises ``DriverError`` naming what stayed."""
    if layout.root.exists() and (layout.etc / "containers.conf").exists():
        await _remove_containers(environment)
    await asyncio.to_thread(_remove_rest, layout)
    left = [str(path) for path in (layout.root, layout.runroot, layout.tmp) if path.exists()]
    left += list(mounts_under(Path("/proc/self/mountinfo").read_text(), (layout.data, layout.run)))
    if left:
        raise DriverError(f"the podman driver could not remove {', '.join(left[:5])}", hint="try again", left=left)


async def _remove_containers(environment: Mapping[str, str]) -> None:
    try:
        finished = await command.run(["rm", "--all", "--force", "--time", "0", "--volumes"], environment, timeout=120)
    except (KatError, OSError) as error:
        _LOG.warning("reset-podman-failed", error=str(error))
        return
    if finished.exit_code != 0:
        _LOG.warning("reset-podman-failed", error=finished.complaint)


def _remove_rest(layout: Layout) -> None:
    for pid in own_processes(layout):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signals.SIGKILL)
    for group in _cgroups(layout.tag):
        for pid in _members(group):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signals.SIGKILL)
    until = time.monotonic() + 5
    while time.monotonic() < until and any(_cgroups_busy(layout.tag)):
        time.sleep(0.05)
    _unmount(layout)
    for folder in (layout.root, layout.files, layout.etc, layout.runroot, layout.tmp, layout.sockets):
        _remove_tree(folder)
    for folder in (layout.process_files, layout.run / "other"):
        _remove_tree(folder)
    (layout.run / "boot-id").unlink(missing_ok=True)
    if layout.run.parent == Path("/run") and layout.run.name.startswith(f"kat-{layout.tag}-"):
        _remove_tree(layout.run)
    for group in _cgroups(layout.tag):
        with contextlib.suppress(OSError):
            group.rmdir()


def own_processes(layout: Layout) -> Iterator[int]:
    """Find conmon, Podman and clean-up processes of this driver, by its folders in command line or environment."""
    marks = [str(layout.runroot).encode(), str(layout.sockets).encode(), str(layout.etc).encode()]
    for entry in Path("/proc").iterdir():
        if not entry.name.isdecimal() or int(entry.name) == os.getpid():
            continue
        try:
            words = (entry / "cmdline").read_bytes()
            program = words.split(b"\0", 1)[0].rsplit(b"/", 1)[-1]
            if program not in (b"podman", b"conmon"):
                continue
            about = words + (entry / "environ").read_bytes()
        except OSError:
            continue
        if any(mark + b"/" in about or mark + b"\0" in about for mark in marks):
            yield int(entry.name)


def mounts_under(mountinfo: str, folders: tuple[Path, ...]) -> Iterator[str]:
    """List mount points below folders, the deepest first; format: proc(5), ``/proc/pid/mountinfo``. Pure."""
    found = []
    for line in mountinfo.splitlines():
        point = line.split(" ")[4]
        for escape, plain in _UNESCAPED.items():
            point = point.replace(escape, plain)
        if any(Path(point).is_relative_to(folder) for folder in folders):
            found.append(point)
    yield from reversed(found)


def _unmount(layout: Layout) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    detach = 2  # MNT_DETACH, umount(2): gone from the tree now, freed when nobody uses it any more
    for _ in range(3):  # what lay under another mount shows up once that is gone
        points = list(mounts_under(Path("/proc/self/mountinfo").read_text(), (layout.data, layout.run)))
        if not points:
            return
        for point in points:
            if libc.umount2(point.encode(), detach) != 0:
                _LOG.warning("reset-not-unmounted", path=point, errno=ctypes.get_errno())


def _remove_tree(folder: Path) -> None:
    for _ in range(3):  # a process on its way out may still add a file
        shutil.rmtree(folder, ignore_errors=True)
        if not folder.exists():
            return
        time.sleep(0.1)


def _cgroups(tag: str) -> list[Path]:
    """List this driver's cgroups in every hierarchy, the deepest first."""
    top = Path("/sys/fs/cgroup")
    found: list[Path] = []
    for base in (top, *(entry for entry in top.iterdir() if entry.is_dir() and not entry.is_symlink())):
        root = base / f"kat-{tag}"
        if root.is_dir():
            found += [Path(folder) for folder, _, _ in os.walk(root, topdown=False)]
    return found


def _members(group: Path) -> list[int]:
    try:
        return [int(line) for line in (group / "cgroup.procs").read_text().split()]
    except OSError:
        return []


def _cgroups_busy(tag: str) -> Iterator[bool]:
    for group in _cgroups(tag):
        yield bool(_members(group))
