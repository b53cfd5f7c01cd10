"""Following a part of the state: list, then watch, then list again when the watch cannot go on.

Consumers hold an immutable :class:`View` and replace it whole. Between two views they are told every change, also
across a relist, where the changes are worked out by comparing: no consumer ever sees a gap.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Mapping
from contextlib import aclosing
from dataclasses import replace
from types import MappingProxyType

import structlog

from kat_platform.errors import Compacted, KatError
from kat_platform.interfaces.store import Change, ChangeType, Entry, Page, Store, WatchBatch

log = structlog.get_logger(__name__)

RETRY_SECONDS = (0.1, 5.0)
"""Shortest and longest pause between two attempts to list."""


class View(Mapping[str, Entry]):
    """An immutable picture of every key under a prefix, as of one revision."""

    __slots__ = ("_entries", "revision")

    def __init__(self, entries: Mapping[str, Entry], revision: int) -> None:
        self._entries = MappingProxyType(dict(entries))
        self.revision = revision

    def __getitem__(self, key: str) -> Entry:
        return self._entries[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def __repr__(self) -> str:
        return f"View({len(self)} keys at revision {self.revision})"


Changes = tuple[Change, ...]
OnChange = Callable[[View, Changes], Awaitable[None] | None]


def difference(old: Mapping[str, Entry], new: Mapping[str, Entry], revision: int) -> Changes:
    """Work out the changes that lead from one picture to another, ordered by revision, then key.

    Removals of which the time is not known carry ``revision`` and come first, so that names which moved from one
    key to another are free before they are taken.
    """
    gone = [
        Change(ChangeType.DELETE, Entry(key, b"", revision, 0, 0), old[key]) for key in sorted(old.keys() - new.keys())
    ]
    put = [Change(ChangeType.PUT, entry, old.get(key)) for key, entry in new.items() if old.get(key) != entry]
    put.sort(key=lambda change: (change.entry.revision, change.entry.key))
    return (*gone, *put)


def advance(view: View, batch: WatchBatch) -> tuple[View, Changes]:
    """Apply a batch to a view, giving the next view and the changes with what each key was before."""
    entries = dict(view)
    changes = []
    for change in batch.changes:
        key = change.entry.key
        previous = entries.pop(key, None)
        if change.type is ChangeType.PUT:
            entries[key] = change.entry
        elif previous is None:
            continue  # made and removed between two revisions of a relist: nobody was told of it
        changes.append(change if change.previous is previous else replace(change, previous=previous))
    return View(entries, batch.revision), tuple(changes)


async def follow(store: Store, prefix: str) -> AsyncGenerator[tuple[View, Changes], None]:
    """Give the view of a prefix at once, then a new one with its changes whenever something changes, for ever.

    The first view comes with every key as a change; a view without changes only tells how far it is. Waits through
    outages of the store; raises only errors that waiting does not mend (``Denied``, for one). Close it with ``aclose``.
    """
    view, first = View({}, 0), True
    while True:
        page = await _list(store, prefix)
        entries = {entry.key: entry for entry in page.entries}
        changes = difference(view, entries, page.revision)
        moved = page.revision != view.revision
        view = View(entries, page.revision)
        if first or moved:
            yield view, changes
        first = False
        try:
            async with aclosing(store.watch(prefix, from_revision=page.revision + 1)) as batches:
                async for batch in batches:
                    if not batch.changes:
                        continue
                    view, changes = advance(view, batch)
                    yield view, changes
        except Compacted:
            log.info("state-relist", prefix=prefix, revision=view.revision)
        except KatError as error:
            if not error.retryable:
                raise
            log.warning("state-relist", prefix=prefix, revision=view.revision, error=str(error))
        await asyncio.sleep(RETRY_SECONDS[0])  # a store that says so at once, each time, is not hammered


async def _list(store: Store, prefix: str) -> Page:
    pause, longest = RETRY_SECONDS
    while True:
        try:
            return await store.list(prefix)
        except KatError as error:
            if not error.retryable and not isinstance(error, Compacted):
                raise
            log.warning("state-list-retry", prefix=prefix, error=str(error), seconds=pause)
        await asyncio.sleep(pause)
        pause = min(pause * 2, longest)


class Follower:
    """Keeps the newest view of a prefix, and tells a consumer of every change.

    While the consumer works, what changes meanwhile is gathered: the next call gets all of it in order with the
    newest view, so a slow consumer falls behind in calls, never in state.
    """

    def __init__(self, store: Store, prefix: str) -> None:
        self.prefix = prefix
        self.view = View({}, 0)
        self._store = store
        self._listed = asyncio.Event()
        self._news = asyncio.Event()
        self._pending: list[Change] = []
        self._told = False

    async def ready(self) -> View:
        """Wait for the first view and give it."""
        await self._listed.wait()
        return self.view

    async def run(self, on_change: OnChange | None = None) -> None:
        """Follow until cancelled. What ``on_change`` raises ends it: a consumer that failed has lost its place."""
        self._told = on_change is not None
        async with asyncio.TaskGroup() as group:
            group.create_task(self._gather(), name=f"follow {self.prefix}")
            if on_change is not None:
                group.create_task(self._tell(on_change), name=f"tell {self.prefix}")

    async def _gather(self) -> None:
        async with aclosing(follow(self._store, self.prefix)) as views:
            async for view, changes in views:
                self.view = view
                if self._told:
                    self._pending.extend(changes)
                self._listed.set()
                self._news.set()

    async def _tell(self, on_change: OnChange) -> None:
        while True:
            await self._news.wait()
            self._news.clear()
            changes, self._pending = tuple(self._pending), []
            answer = on_change(self.view, changes)
            if answer is not None:
                await answer
