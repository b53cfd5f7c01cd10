"""Writes the beginning of a plugin: a complete distribution that passes its conformance kit as it stands.

The files are in ``templates``: those of ``every`` plugin and those of its kind, each named as what it becomes plus
``.in``; the folder ``package`` becomes the Python package. ``@name@`` and its like are filled in.
"""

from __future__ import annotations

import keyword
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.resources import files
from importlib.resources.abc import Traversable
from importlib.util import find_spec
from pathlib import Path
from typing import Final

from kat_platform import __version__
from kat_platform.errors import Conflict, UsageError

_NAME: Final = re.compile(r"[a-z]([a-z0-9-]{0,38}[a-z0-9])?")
_TOKEN: Final = re.compile(r"@([a-z]+)@")

_TAKEN: Final = sys.stdlib_module_names | {"build", "dist", "tests"}


@dataclass(frozen=True, slots=True)
class Kind:
    """What is particular to the plugins of one group; its classes end in ``suffix``, so that no name clashes."""

    group: str
    module: str
    suffix: str
    summary: str
    dependencies: tuple[str, ...] = ()
    """Besides KAT and pydantic."""


KINDS: Final = {
    "scheduler": Kind("kat.scheduler", "driver", "Scheduler", "A scheduler for KAT that keeps every node equally busy"),
    "hooks": Kind(
        "kat.hooks", "plugin", "Plugin", "A plugin for KAT that refuses images without a version", ("click>=8.1",)
    ),
}
"""What can be written. The other capabilities need a machine's worth of code before their kit has anything to try."""


def check_name(name: str) -> None:
    """Raise ``UsageError`` unless ``name`` can be an entry point, a distribution and, with underscores, a package."""
    if not _NAME.fullmatch(name):
        raise UsageError(
            f"'{name[:60]}' cannot be a plugin's name",
            hint="lower-case letters, digits and dashes, at most 40, beginning with a letter",
        )
    package = name.replace("-", "_")
    if "__" in package or keyword.iskeyword(package) or package in _TAKEN:
        raise UsageError(f"'{package}' cannot be the name of a Python package of yours", hint="choose another name")
    if find_spec(package) is not None:
        raise Conflict(f"there is a Python package '{package}' here already", hint="choose another name")


def write(kind: str, name: str, folder: Path) -> tuple[Path, ...]:
    """Write the plugin into ``folder``, which must be new or empty; gives the files, relative to it, sorted.

    Raises ``UsageError`` for a bad name and ``Conflict`` when something is in the way; nothing is written then.
    """
    check_name(name)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise Conflict(f"{folder} exists and is not empty", hint="choose another folder: --dir FOLDER")
    values = _values(KINDS[kind], name)
    contents = {target: fill(text, values) for part in ("every", kind) for target, text in _read(part, values)}
    for target, text in contents.items():
        path = folder / target
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tuple(sorted(contents))


def fill(text: str, values: dict[str, str]) -> str:
    """Put the values where their ``@names@`` are; a name without a value is a ``KeyError``."""
    return _TOKEN.sub(lambda found: values[found[1]], text)


def _values(kind: Kind, name: str) -> dict[str, str]:
    major, minor = __version__.split(".")[:2]
    requirement = f">={major}.{minor},<{int(major) + 1}"
    dependencies = (f"kat{requirement}", *kind.dependencies, "pydantic>=2.7,<3")
    return {
        "name": name,
        "wheel": name.replace("-", "_"),
        "package": name.replace("-", "_"),
        "class": "".join(part.capitalize() for part in name.split("-")).removesuffix(kind.suffix) + kind.suffix,
        "group": kind.group,
        "module": kind.module,
        "summary": kind.summary,
        "requirement": requirement,
        "dependencies": ", ".join(f'"{each}"' for each in dependencies),
    }


def _read(part: str, values: dict[str, str]) -> Iterator[tuple[Path, str]]:
    def walk(folder: Traversable, below: Path) -> Iterator[tuple[Path, str]]:
        for entry in folder.iterdir():
            if entry.is_dir():
                yield from walk(entry, below / (values["package"] if entry.name == "package" else entry.name))
            elif entry.name.endswith(".in"):
                yield below / entry.name.removesuffix(".in"), entry.read_text(encoding="utf-8")

    yield from walk(files("kat_platform.cli") / "templates" / part, Path())
