"""Makes the driver's folders and Podman's configuration ready before the service starts."""

from __future__ import annotations

import contextlib
import os
import shutil
from pathlib import Path
from typing import Final

from kat_platform.errors import HostNotReady
from kat_runtime_podman import layout as files
from kat_runtime_podman.config import PodmanConfig
from kat_runtime_podman.layout import Layout
from kat_runtime_podman.oci import Choice

_BOOT_ID: Final = Path("/proc/sys/kernel/random/boot_id")
_CAP_SYS_RESOURCE: Final = 24
_LIMITS: Final = {"Max processes": "nproc", "Max open files": "nofile"}


def write(layout: Layout, config: PodmanConfig, choice: Choice) -> None:
    """Make folders and write configuration files; blocking, milliseconds.

    A file that is as it should be is left alone, so that a node starts on a full disk as well. Raises ``HostNotReady``.
    """
    try:
        _write(layout, config, choice)
    except OSError as error:
        where = f" ({error.filename})" if error.filename else ""
        raise HostNotReady(
            f"Podman's folders and settings cannot be written below {layout.data} and {layout.run}:"
            f" {error.strerror or error}{where}",
            hint="make room, or have a look at the rights",
        ) from error


def _write(layout: Layout, config: PodmanConfig, choice: Choice) -> None:
    for folder in (layout.run, layout.sockets, layout.process_files, layout.etc, layout.tmp, layout.runroot):
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    layout.sockets.chmod(0o700)
    _forget_last_boot(layout)
    # containers with another user than root must be able to reach the files mounted from here
    layout.files.mkdir(exist_ok=True, mode=0o711)
    layout.root.mkdir(exist_ok=True, mode=0o700)
    contents = {
        "containers.conf": files.containers_conf(
            layout, config, oci_runtime=choice.oci_runtime, cgroup_manager=choice.cgroup_manager
        ),
        "storage.conf": files.storage_conf(layout),
        "registries.conf": files.registries_conf(config),
        "policy.json": files.policy_json(),
    }
    for name, text in contents.items():
        target = layout.etc / name
        if _holds(target, text):
            continue
        fresh = target.with_suffix(".new")
        fresh.write_text(text)
        os.replace(fresh, target)


def _holds(path: Path, text: str) -> bool:
    try:
        return path.read_text() == text
    except (OSError, ValueError):
        return False


def _forget_last_boot(layout: Layout) -> None:
    """Empty the volatile folders when they are of an earlier boot: on some hosts ``/run`` is a disk.

    Podman takes containers for running as long as its ``tmp_dir`` says so.
    """
    note = layout.run / "boot-id"
    with contextlib.suppress(OSError):
        now = _BOOT_ID.read_text().strip()
        if note.exists() and note.read_text().strip() != now:
            for folder in (layout.tmp, layout.runroot, layout.process_files):
                shutil.rmtree(folder, ignore_errors=True)
                folder.mkdir(mode=0o700)
        note.write_text(now)


def cgroup_parent(tag: str, manager: str) -> str:
    """Name the cgroup all containers of this driver are in."""
    return f"kat-{tag}.slice" if manager == "systemd" else f"/kat-{tag}"


def limits(service_pid: int | None) -> dict[str, int]:
    """Give the hard limits a container must not exceed; empty where the service may raise limits.

    Podman wants 1048576 open files and processes for each container, which fails without CAP_SYS_RESOURCE.
    """
    if service_pid is None:
        return {}
    try:
        status = Path(f"/proc/{service_pid}/status").read_text()
        text = Path(f"/proc/{service_pid}/limits").read_text()
    except OSError:
        return {}
    return parse_limits(status, text)


def parse_limits(status: str, text: str) -> dict[str, int]:
    """Read ``/proc/PID/status`` and ``/proc/PID/limits`` (proc(5)). Pure."""
    for line in status.splitlines():
        if line.startswith("CapEff:") and int(line.split()[1], 16) >> _CAP_SYS_RESOURCE & 1:
            return {}
    found = {}
    for line in text.splitlines():
        for title, name in _LIMITS.items():
            if line.startswith(title):
                hard = line[len(title) :].split()[1]
                if hard != "unlimited":
                    found[name] = int(hard)
    return found
