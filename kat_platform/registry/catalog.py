"""The single view of what is installed: every entry point of KAT's groups, read once and never imported here.

``importlib.metadata`` sees one distribution several times when it is found at several places of ``sys.path`` (a wheel
and a checkout of the same plugin). As for imports, the first place wins; the others are kept as ``shadowed`` and are
no duplicates.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from importlib import metadata
from typing import Self

from kat_platform.hooks.specs import GROUP as HOOKS_GROUP
from kat_platform.interfaces.driver import Capability

GROUPS = (*(capability.group for capability in Capability), HOOKS_GROUP)
"""Every entry-point group KAT reads."""


@dataclass(frozen=True, slots=True)
class Installed:
    """One entry point of one installed distribution, as its metadata tells; nothing of it is imported."""

    group: str
    name: str
    target: str
    """``module:object``, as the distribution declares it."""
    distribution: str
    version: str
    location: str
    """Folder the distribution was found in."""
    entry_point: metadata.EntryPoint

    @property
    def origin(self) -> str:
        """Who announces it, for messages: distribution, version and entry point."""
        return f"{self.distribution} {self.version} (entry point {self.name} = {self.target} in group {self.group})"


@dataclass(frozen=True, slots=True)
class Catalog:
    """What is installed, in a stable order: by group, name and distribution."""

    entries: tuple[Installed, ...] = ()
    shadowed: tuple[Installed, ...] = ()
    """Entry points of distributions found again further down ``sys.path``; imports never see these."""

    @classmethod
    def read(cls, path: list[str] | None = None) -> Self:
        """Read the metadata of every distribution on ``path`` (``sys.path`` by default), once."""
        found: list[Installed] = []
        shadowed: list[Installed] = []
        seen: dict[str, str] = {}
        distributions = metadata.distributions() if path is None else metadata.distributions(path=path)
        for distribution in distributions:
            entries = _entries(distribution)
            if not entries:
                continue
            key = re.sub(r"[-_.]+", "-", entries[0].distribution).lower()
            if seen.setdefault(key, entries[0].location) == entries[0].location:
                found.extend(entries)
            else:
                shadowed.extend(entries)
        return cls(tuple(sorted(set(found), key=_order)), tuple(sorted(set(shadowed), key=_order)))

    def group(self, group: str) -> tuple[Installed, ...]:
        """Everything announced in one group."""
        return tuple(entry for entry in self.entries if entry.group == group)

    def named(self, group: str, name: str) -> tuple[Installed, ...]:
        """Everything announced under one name of a group: more than one is a fault if that name is chosen."""
        return tuple(entry for entry in self.group(group) if entry.name == name)

    def names(self, group: str) -> tuple[str, ...]:
        """The names announced in a group, each once."""
        return tuple(dict.fromkeys(entry.name for entry in self.group(group)))


def nearest(name: str, names: Iterable[str]) -> str | None:
    """Give the one of ``names`` that ``name`` was probably meant to be."""
    close = difflib.get_close_matches(name, list(names), n=1, cutoff=0.5)
    return close[0] if close else None


def _entries(distribution: metadata.Distribution) -> list[Installed]:
    # The entry points are read before anything else: parsing the whole metadata of every distribution of an
    # environment costs a hundred times as much, and few have anything for KAT.
    text = distribution.read_text("entry_points.txt")
    if not text or "[kat." not in text:
        return []
    location = str(distribution.locate_file(""))
    name, version = distribution.metadata["Name"], distribution.version
    return [
        Installed(entry.group, entry.name, entry.value, name, version, location, entry)
        for entry in distribution.entry_points
        if entry.group in GROUPS
    ]


def _order(entry: Installed) -> tuple[str, str, str, str]:
    return (entry.group, entry.name, entry.distribution, entry.target)
