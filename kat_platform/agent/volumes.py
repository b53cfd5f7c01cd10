"""Volumes: makes sure that what a container mounts is there, and says where. Blocking; run it in a thread."""

from __future__ import annotations

import os
from pathlib import Path

from kat_platform.errors import InvalidInput
from kat_platform.interfaces.runtime import Mount
from kat_platform.model.container import VolumeMount
from kat_platform.model.view import AssignmentItem
from kat_platform.model.workload import HostMount, WorkloadVolume


def volume_folder(base: Path, namespace: str, workload: str, volume: str) -> Path:
    """Give the folder of a workload's own volume."""
    return base / namespace / workload / volume


def prepare(assignment: AssignmentItem, base: Path) -> tuple[Mount, ...]:
    """Make what is missing and give the container's mounts.

    Raises ``InvalidInput`` naming volume and path when something is there that does not fit, or nothing is.
    """
    spec = assignment.document.spec
    volumes = {volume.name: volume for volume in spec.volumes}
    return tuple(
        _mount(assignment, volumes[mount.name], mount, base, spec.container.user)
        for mount in spec.container.volume_mounts
    )


def _mount(
    assignment: AssignmentItem, volume: WorkloadVolume, mount: VolumeMount, base: Path, user: str | None
) -> Mount:
    if volume.host_mount is not None:
        source = _host(volume.name, volume.host_mount)
    else:
        record = assignment.record
        source = volume_folder(base, record.namespace, record.workload, volume.name)
        if not source.exists():
            source.mkdir(parents=True, mode=0o755)
            _give(source, user)
    if mount.sub_path is not None:
        source = _below(volume.name, source, mount.sub_path, user)
    return Mount(str(source), mount.mount_path, mount.read_only)


def _give(folder: Path, user: str | None) -> None:
    """Hand a new folder to the container's user where it is given by number (names are known to the image only)."""
    parts = (user or "").split(":")
    if parts[0].isdigit():
        group = int(parts[1]) if len(parts) > 1 and parts[1].isdigit() else -1
        os.chown(folder, int(parts[0]), group)


def _host(name: str, host: HostMount) -> Path:
    path, wanted = Path(host.host_path), host.ensure_type
    if wanted in ("DirectoryOrCreate", "FileOrCreate") and not path.exists():
        if wanted == "DirectoryOrCreate":
            path.mkdir(parents=True, mode=0o755)
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch(mode=0o644)
    if not path.exists():
        raise InvalidInput(
            f"volume '{name}': {path} does not exist on this node", hint="make it, or use ensureType DirectoryOrCreate"
        )
    if wanted is not None:
        fits = path.is_dir() if wanted.startswith("Directory") else path.is_file()
        if not fits:
            raise InvalidInput(f"volume '{name}': {path} is not a {wanted.removesuffix('OrCreate').lower()}")
    return path


def _below(name: str, source: Path, sub_path: str, user: str | None) -> Path:
    root = source.resolve()
    inner = (root / sub_path).resolve()
    if not inner.is_relative_to(root):
        raise InvalidInput(f"volume '{name}': subPath '{sub_path}' leads out of the volume")
    if not inner.exists():
        inner.mkdir(parents=True, mode=0o755)
        _give(inner, user)
    return inner
