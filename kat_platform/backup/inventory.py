"""Inventory: what keys a store has, counted and digested, to compare a state with its backup."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass
from hashlib import sha256
from typing import Final

from kat_platform.interfaces.store import Entry, Store
from kat_platform.state import keys

TOLD_ONLY: Final = (keys.EVENTS, keys.AUDIT)
"""What only tells of the past: a state that differs in nothing else needs no new backup."""


@dataclass(frozen=True, slots=True)
class Inventory:
    """The keys of a store, but not those of leases: they end by themselves, also in a store that was restored."""

    revision: int
    keys: int
    digest: str
    """Of all keys and the revisions of their last writes."""
    state: str
    """The same without what only tells of the past."""


def inventory_of(entries: Iterable[Entry], revision: int) -> Inventory:
    """Count and digest. Pure."""
    count, everything, state = 0, sha256(), sha256()
    for entry in sorted(entries, key=lambda entry: entry.key):
        if entry.lease:
            continue
        count += 1
        line = f"{entry.key}\0{entry.revision}\n".encode()
        everything.update(line)
        if not entry.key.startswith(TOLD_ONLY):
            state.update(line)
    return Inventory(revision, count, everything.hexdigest(), state.hexdigest())


async def take_inventory(store: Store) -> Inventory:
    """Ask a store what it has."""
    page = await store.list(keys.ROOT, keys_only=True)
    return await asyncio.to_thread(inventory_of, page.entries, page.revision)
