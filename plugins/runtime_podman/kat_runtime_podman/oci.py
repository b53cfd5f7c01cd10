"""Which of the host's parts Podman shall work with: OCI runtime, cgroup manager, cgroup version."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from kat_platform.errors import HostNotReady
from kat_runtime_podman.config import PodmanConfig


@dataclass(frozen=True, slots=True)
class HostFacts:
    """What was found on the host."""

    cgroup_version: int
    systemd: bool
    crun: bool
    runc: bool


@dataclass(frozen=True, slots=True)
class Choice:
    """What Podman shall use."""

    oci_runtime: str
    cgroup_manager: str


def look() -> HostFacts:
    """Look at the host; a few ``stat`` calls."""
    return HostFacts(
        cgroup_version=2 if Path("/sys/fs/cgroup/cgroup.controllers").exists() else 1,
        systemd=Path("/run/systemd/system").is_dir() and os.geteuid() == 0 and Path("/run/systemd/private").exists(),
        crun=shutil.which("crun") is not None,
        runc=shutil.which("runc") is not None,
    )


def choose(config: PodmanConfig, host: HostFacts) -> Choice:
    """Decide; raises ``HostNotReady`` when no runtime will do.

    crun (seen with 1.8) refuses hosts with cgroup v1 beside v2; runc works on both.
    """
    manager = config.cgroup_manager
    if manager == "auto":
        manager = "systemd" if host.systemd and host.cgroup_version == 2 else "cgroupfs"
    order = ("crun", "runc") if host.cgroup_version == 2 else ("runc", "crun")
    wanted = order if config.oci_runtime == "auto" else (config.oci_runtime,)
    for name in wanted:
        if (host.crun if name == "crun" else host.runc) and (name, host.cgroup_version) != ("crun", 1):
            return Choice(name, manager)
    if host.cgroup_version == 1:
        raise HostNotReady("on cgroup v1 only runc works, and it is not installed or not chosen", hint="install runc")
    raise HostNotReady(f"no OCI runtime found: looked for {' and '.join(wanted)}", hint="install crun or runc")
