"""StateCache: a live :class:`ClusterState` for the API and the leader of one control-plane node, from one watch."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable

from kat_platform.errors import TimedOut
from kat_platform.interfaces.store import Change, ChangeType, Entry, Store
from kat_platform.state import keys
from kat_platform.state.cluster import ClusterState, advance
from kat_platform.state.follow import Follower, View

Listener = Callable[[ClusterState, tuple[Change, ...]], None]


class StateCache:
    """Follows the store and holds the newest state. :meth:`run` must be running for it to be fed."""

    def __init__(self, store: Store) -> None:
        self._follower = Follower(store, keys.ROOT)
        self._state = ClusterState()
        self._synced = asyncio.Event()
        self._moved = asyncio.Event()
        self._listeners: list[Listener] = []

    @property
    def state(self) -> ClusterState:
        """The newest state; empty with revision 0 until the first list is through."""
        return self._state

    async def run(self) -> None:
        """Follow the store until cancelled."""
        await self._follower.run(self._on_change)

    def _on_change(self, view: View, changes: tuple[Change, ...]) -> None:
        self._state = advance(self._state, changes, view.revision)
        self._synced.set()
        self._moved.set()
        self._moved = asyncio.Event()
        for listener in tuple(self._listeners):
            listener(self._state, changes)

    async def synced(self) -> ClusterState:
        """Wait for the first list and give the state."""
        await self._synced.wait()
        return self._state

    async def reached(self, revision: int, *, timeout: float = 5.0) -> ClusterState:
        """Wait until everything up to ``revision`` is in the state: read your own writes. ``timeout`` in seconds."""
        try:
            async with asyncio.timeout(timeout):
                while self._state.revision < revision:
                    await self._moved.wait()
        except TimeoutError:
            raise TimedOut(f"the state of revision {revision} did not arrive within {timeout:g} s") from None
        return self._state

    def subscribe(self, listener: Listener) -> Callable[[], None]:
        """Call ``listener(state, changes)`` on each change, from the event loop; gives the way to stop it.

        The listener must be quick and must not raise: it marks work to do, it does not do it.
        """
        self._listeners.append(listener)

        def unsubscribe() -> None:
            if listener in self._listeners:
                self._listeners.remove(listener)

        return unsubscribe


async def changes_of(cache: StateCache, prefix: str) -> AsyncIterator[tuple[Change, ...]]:
    """Give the changes with a prefix from now on, for watch streams; the queue between is unbounded but tiny."""
    queue: asyncio.Queue[tuple[Change, ...]] = asyncio.Queue()

    def keep(_: ClusterState, changes: tuple[Change, ...]) -> None:
        wanted = tuple(c for c in changes if c.entry.key.startswith(prefix))
        if wanted:
            queue.put_nowait(wanted)

    stop = cache.subscribe(keep)
    try:
        while True:
            yield await queue.get()
    finally:
        stop()


def as_change(entry: Entry) -> Change:
    """Make the change that would have brought this entry."""
    return Change(ChangeType.PUT, entry)
