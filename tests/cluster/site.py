"""Lets a checkout that nothing was installed from be run as an installation would be: entry points for its plugins."""

from __future__ import annotations

import os
import tomllib
from importlib import metadata
from pathlib import Path

HOUSE = Path(__file__).resolve().parents[2]


def installed() -> bool:
    """Tell whether KAT's plugins are installed in this Python."""
    return bool(metadata.entry_points(group="kat.runtime"))


def python_path(folder: Path) -> str:
    """Give ``PYTHONPATH`` for KAT's programs; in a bare checkout stand-ins for its distributions go to ``folder``."""
    given = os.environ.get("PYTHONPATH", "")
    if installed():
        return given
    projects = [HOUSE, *(path.parent for path in sorted((HOUSE / "plugins").glob("*/pyproject.toml")))]
    for project in projects:
        settings = tomllib.loads((project / "pyproject.toml").read_text())["project"]
        add_distribution(folder, settings["name"], "1.0.0", settings.get("entry-points", {}))
    return os.pathsep.join([str(folder), *map(str, projects), *filter(None, [given])])


def add_distribution(folder: Path, name: str, version: str, entry_points: dict[str, dict[str, str]]) -> None:
    """Write what makes a distribution known to Python: its metadata, with its entry points by group."""
    info = folder / f"{name.replace('-', '_')}-{version}.dist-info"
    info.mkdir(parents=True, exist_ok=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    lines = [
        f"[{group}]\n" + "".join(f"{k} = {v}\n" for k, v in found.items()) for group, found in entry_points.items()
    ]
    (info / "entry_points.txt").write_text("\n".join(lines))
