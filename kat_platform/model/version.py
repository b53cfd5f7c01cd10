"""Version: which versions of KAT work together. One major version, and at most one minor version apart. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from kat_platform.errors import InvalidInput

_VERSION: Final = re.compile(r"(\d{1,5})\.(\d{1,5})(?:[.\-+].{0,40})?")
AGENT: Final = "kat-agent/"
"""How an agent begins to say its version in the ``User-Agent`` header."""


@dataclass(frozen=True, slots=True, order=True)
class Version:
    """What counts of a version for whether two parts work together."""

    major: int
    minor: int

    def __str__(self) -> str:
        return f"{self.major}.{self.minor}"


def read_version(text: str) -> Version:
    """Read ``MAJOR.MINOR`` and whatever follows; raises ``InvalidInput``."""
    match = _VERSION.fullmatch(text)
    if match is None:
        raise InvalidInput(f"'{text[:40]}' is not a version of kat-agent")
    return Version(int(match[1]), int(match[2]))


def work_together(one: str, other: str) -> bool:
    """Tell whether two versions work together; raises ``InvalidInput`` for what is no version."""
    a, b = read_version(one), read_version(other)
    return a.major == b.major and abs(a.minor - b.minor) <= 1


def agents_of(server: str) -> tuple[Version, Version]:
    """Give the oldest and the newest version of agents that a server works with."""
    own = read_version(server)
    return Version(own.major, max(0, own.minor - 1)), Version(own.major, own.minor + 1)


def too_far(server: str, agent: str) -> str | None:
    """Say why an agent does not work with a server, and what to install; ``None`` when it does.

    What is no version is let pass: whoever says none is no agent of ours.
    """
    try:
        if work_together(server, agent):
            return None
    except InvalidInput:
        return None
    own = read_version(server)
    return f"kat-agent {agent[:40]} does not work with a cluster of version {server}: install kat {own} there"
