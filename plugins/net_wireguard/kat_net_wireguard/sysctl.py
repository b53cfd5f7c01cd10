"""Kernel settings that are not an interface's own: set, with the value found before kept for ``reset``."""

from __future__ import annotations

import json
from pathlib import Path

from kat_platform.errors import NetworkFailure

ROOT = Path("/proc/sys")
WANTED = {"net/ipv4/ip_forward": "1"}
"""Forwarding between containers, tunnel and the outside."""
_MEMORY = "sysctl.json"


def apply(folder: Path, root: Path = ROOT) -> None:
    """Set what is wanted; the first values found are remembered in ``folder`` before anything is changed."""
    memory = folder / _MEMORY
    before: dict[str, str] = json.loads(memory.read_text()) if memory.exists() else {}
    for name, value in WANTED.items():
        try:
            found = (root / name).read_text().strip()
            if found == value:
                continue
            if name not in before:
                before[name] = found
                fresh = memory.with_suffix(".new")
                fresh.write_text(json.dumps(before))
                fresh.replace(memory)
            (root / name).write_text(value)
        except OSError as error:
            raise NetworkFailure(f"cannot set {name.replace('/', '.')} to {value}: {error.strerror}") from error


def restore(folder: Path, root: Path = ROOT) -> None:
    """Give back what :func:`apply` found, unless somebody has changed it since; forget it."""
    memory = folder / _MEMORY
    if not memory.exists():
        return
    for name, value in json.loads(memory.read_text()).items():
        place = root / name
        if place.exists() and place.read_text().strip() == WANTED.get(name):
            place.write_text(value)
    memory.unlink()
