"""Objects: the API's objects as rendered bytes, kept until something of them changes, and who wants to know of that."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from kat_platform.errors import Compacted
from kat_platform.interfaces.store import Change
from kat_platform.server import render
from kat_platform.server.index import (
    CONFIGURATION,
    EVENTS,
    INSTANCES,
    NAMESPACES,
    NODES,
    REVISIONS,
    WORKLOADS,
    Index,
    Ref,
)
from kat_platform.state.cache import StateCache
from kat_platform.state.cluster import ClusterState
from kat_platform.state.keys import CLUSTER_SCOPE

REMOVED_KEPT: Final = 10_000
"""How many removals are remembered, for watches that resume."""
RENDERED_KEPT: Final = 20_000
"""How many rendered objects are kept."""

Listener = Callable[[Iterable[Ref]], None]


@dataclass(frozen=True, slots=True)
class Filter:
    """Which objects of a collection are asked for. ``labels`` holds ``(key, operator, value)``, all must hold."""

    collection: str
    namespace: str | None = None
    workload: str | None = None
    labels: tuple[tuple[str, str, str], ...] = ()

    def covers(self, ref: Ref) -> bool:
        """Tell whether an object can be meant, by its name alone."""
        if ref.collection != self.collection:
            return False
        # Events of cluster objects lie in a namespace of their own that nobody has to know.
        return (
            self.namespace is None
            or ref.namespace == self.namespace
            or (self.namespace == "" and ref.namespace == CLUSTER_SCOPE)
        )

    def matches(self, state: ClusterState, ref: Ref) -> bool:
        """Tell whether an object that exists is meant."""
        if not self.covers(ref):
            return False
        if self.workload is not None and render.owner_of(state, ref) != self.workload:
            return False
        return not self.labels or selected(render.labels(state, ref), self.labels)


def selected(labels: Mapping[str, str], terms: Iterable[tuple[str, str, str]]) -> bool:
    """Tell whether labels satisfy every term of a selector. Pure."""
    for key, operator, value in terms:
        if operator == "=" and labels.get(key) != value:
            return False
        if operator == "!=" and labels.get(key) == value:
            return False
        if operator == "exists" and key not in labels:
            return False
        if operator == "absent" and key in labels:
            return False
    return True


class Objects:
    """Follows the cache. Everything here is called on the event loop and never waits."""

    def __init__(self, cache: StateCache) -> None:
        self._cache = cache
        self.index = Index()
        self._rendered: dict[Ref, bytes] = {}
        self._changed: dict[Ref, int] = {}
        self._created: dict[Ref, int] = {}
        self._removed: deque[tuple[int, Ref]] = deque()
        self._floor = 0
        self._listeners: list[Listener] = []
        self._stop: Callable[[], None] | None = None

    def start(self) -> None:
        """Begin to follow; the cache must have synced."""
        self.index.load(self.state)
        self._floor = self.state.revision
        collections = (WORKLOADS, REVISIONS, INSTANCES, NODES, NAMESPACES, EVENTS, CONFIGURATION)
        self._created = {ref: 0 for collection in collections for ref in render.names(self.state, collection)}
        self._stop = self._cache.subscribe(self._on_change)

    def stop(self) -> None:
        """Let go of the cache."""
        if self._stop is not None:
            self._stop()
            self._stop = None

    @property
    def state(self) -> ClusterState:
        """The newest state."""
        return self._cache.state

    def get(self, ref: Ref) -> bytes | None:
        """Give an object as JSON, or ``None`` when it does not exist."""
        found = self._rendered.get(ref)
        if found is None:
            item = render.item(self.state, self.index, ref)
            if item is None:
                return None
            if len(self._rendered) >= RENDERED_KEPT:
                self._rendered.clear()
            found = self._rendered[ref] = item.to_json()
        return found

    def find(self, wanted: Filter) -> list[Ref]:
        """Give the objects that match, sorted by namespace and name."""
        state = self.state
        return sorted(ref for ref in render.names(state, wanted.collection) if wanted.matches(state, ref))

    def since(self, wanted: Filter, revision: int) -> tuple[list[Ref], set[Ref]]:
        """Give what changed after ``revision``, oldest first, and what a watcher that had seen it all knows of.

        Raises ``Compacted`` when changes that old are no longer remembered.
        """
        if revision < self._floor:
            raise Compacted(
                f"changes before revision {self._floor} are no longer remembered",
                hint="list again and watch from there",
            )
        known = {ref for ref in self.find(wanted) if self._created.get(ref, 0) <= revision}
        gone = [(at, ref) for at, ref in self._removed if at > revision and wanted.covers(ref)]
        known.update(ref for _, ref in gone)
        changed = [(at, ref) for ref, at in self._changed.items() if at > revision and wanted.covers(ref)]
        return [ref for _, ref in sorted({*gone, *changed})], known

    def subscribe(self, listener: Listener) -> Callable[[], None]:
        """Call ``listener(refs)`` after each change with what it touched; gives the way to stop it."""
        self._listeners.append(listener)

        def unsubscribe() -> None:
            if listener in self._listeners:
                self._listeners.remove(listener)

        return unsubscribe

    def _on_change(self, state: ClusterState, changes: tuple[Change, ...]) -> None:
        touched = self.index.fold(state, changes)
        for ref in touched:
            self._rendered.pop(ref, None)
            self._note(state, ref)
        if touched:
            for listener in tuple(self._listeners):
                listener(touched)

    def _note(self, state: ClusterState, ref: Ref) -> None:
        if exists(state, ref):
            self._created.setdefault(ref, state.revision)
            self._changed[ref] = state.revision
        elif self._created.pop(ref, None) is not None:
            self._changed.pop(ref, None)
            self._removed.append((state.revision, ref))
            while len(self._removed) > REMOVED_KEPT:
                self._floor = max(self._floor, self._removed.popleft()[0])


def exists(state: ClusterState, ref: Ref) -> bool:
    """Tell whether there is such an object."""
    return render.etag(state, ref) > 0
