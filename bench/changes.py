"""Changes: what the store has taken in since a moment, asked of a lab's own etcd with ``etcdctl``."""

from __future__ import annotations

import base64
import json
from collections import Counter
from dataclasses import dataclass
from typing import Any

from tests.cluster import host

SOCKET = "unix://client.sock:0"
"""Where KAT's etcd listens, in its working folder."""


@dataclass(frozen=True, slots=True)
class Mark:
    """A moment of the store: its revision (one more with each change), and the entries of its log."""

    revision: int
    entries: int


def mark(pid: int) -> Mark:
    """Give the present moment of the etcd that is process ``pid``."""
    status = _ask(pid, "endpoint", "status")[0]["Status"]
    return Mark(status["header"]["revision"], status["raftIndex"])


def since(pid: int, moment: Mark) -> Counter[str]:
    """Count the keys that were put since a moment and are still there, by the first parts of their names."""
    found = _ask(pid, "get", "", "--from-key", "--keys-only").get("kvs", [])
    keys = [base64.b64decode(each["key"]).decode() for each in found if each["mod_revision"] > moment.revision]
    return by_kind(keys)


def by_kind(keys: list[str]) -> Counter[str]:
    """Count keys by the first two parts of their names: what follows names single objects."""
    return Counter("/".join(key.strip("/").split("/")[:2]) for key in keys)


def _ask(pid: int, *words: str) -> Any:
    command = ("etcdctl", f"--endpoints={SOCKET}", *words, "--write-out=json")
    return json.loads(host.run(*command, cwd=f"/proc/{pid}/cwd"))
