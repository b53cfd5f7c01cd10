"""Index: which of the API's objects a change in the store touches, and whose each instance is.

One object of the API is made of several keys (a workload of its record, its rollout, its instances ...). This is the
one place that knows which; the cache of rendered objects, the watches and the node views all follow it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Set
from typing import Final, NamedTuple

from kat_platform.interfaces.store import Change
from kat_platform.state import keys
from kat_platform.state.cluster import ClusterState, Pair

WORKLOADS: Final = "workloads"
REVISIONS: Final = "revisions"
INSTANCES: Final = "instances"
NODES: Final = "nodes"
NAMESPACES: Final = "namespaces"
EVENTS: Final = "events"
CONFIGURATION: Final = "configuration"
TRUST: Final = "trust"

_NOBODY: Final[frozenset[str]] = frozenset()


class Ref(NamedTuple):
    """Names an object of the API; ``namespace`` is empty for those of the cluster."""

    collection: str
    namespace: str
    name: str


class Index:
    """Follows the state; :meth:`fold` must see every change, in order."""

    def __init__(self) -> None:
        self._owner: dict[Pair, tuple[str, str | None]] = {}
        self._by_workload: dict[Pair, set[str]] = {}
        self._by_node: dict[str, set[Pair]] = {}

    def of_workload(self, ns: str, name: str) -> Set[str]:
        """Give the ids of a workload's instances."""
        return self._by_workload.get((ns, name), _NOBODY)

    def on_node(self, node: str) -> Iterable[Pair]:
        """Give the instances bound to a node."""
        return self._by_node.get(node, ())

    def load(self, state: ClusterState) -> None:
        """Begin with a whole state."""
        self.__init__()  # type: ignore[misc]
        for pair in state.instances:
            self._place(state, pair)

    def fold(self, state: ClusterState, changes: Iterable[Change]) -> dict[Ref, None]:
        """Take the newest state and the changes that led to it; gives the objects they touch, in order."""
        touched: dict[Ref, None] = {}
        for change in changes:
            for ref in self._touches(state, change.entry.key):
                touched[ref] = None
        return touched

    def _touches(self, state: ClusterState, key: str) -> Iterator[Ref]:
        if key.startswith((keys.STATUSES, keys.INSTANCES)):
            prefix = keys.STATUSES if key.startswith(keys.STATUSES) else keys.INSTANCES
            ns, name = _pair(key, prefix)
            before = self._owner.get((ns, name))
            if prefix == keys.INSTANCES:
                self._place(state, (ns, name))
            yield Ref(INSTANCES, ns, name)
            for owner in {o[0] for o in (before, self._owner.get((ns, name))) if o is not None}:
                yield Ref(WORKLOADS, ns, owner)
        elif key.startswith((keys.WORKLOADS, keys.ROLLOUTS, keys.VIPS)):
            yield Ref(WORKLOADS, *keys.split(key, keys.ROOT)[1:3])
        elif key.startswith(keys.REVISIONS):
            ns, workload, number = keys.split(key, keys.REVISIONS)
            yield Ref(REVISIONS, ns, f"{workload}/{int(number)}")
            yield Ref(WORKLOADS, ns, workload)
            for name in self.of_workload(ns, workload):
                yield Ref(INSTANCES, ns, name)
        elif key.startswith((keys.NODES, keys.NODE_REPORTS, keys.ALIVE, keys.STANDINGS)):
            yield Ref(NODES, "", keys.split(key, keys.ROOT)[1])
        elif key.startswith(keys.NAMESPACES):
            yield Ref(NAMESPACES, "", keys.split(key, keys.NAMESPACES)[0])
        elif key.startswith(keys.EVENTS):
            ns, name = _pair(key, keys.EVENTS)
            yield Ref(EVENTS, ns, name)
        elif key == keys.CLUSTER:
            yield Ref(CONFIGURATION, "", "cluster")
        elif key == keys.TRUST or key.startswith(keys.REVOKED):
            yield Ref(TRUST, "", "trust")

    def _place(self, state: ClusterState, pair: Pair) -> None:
        old = self._owner.pop(pair, None)
        if old is not None:
            self._discard(pair, *old)
        record = state.instances.get(pair)
        if record is not None:
            self._owner[pair] = (record.workload, record.node)
            self._by_workload.setdefault((record.namespace, record.workload), set()).add(pair[1])
            if record.node is not None:
                self._by_node.setdefault(record.node, set()).add(pair)

    def _discard(self, pair: Pair, workload: str, node: str | None) -> None:
        of_workload = self._by_workload[pair[0], workload]
        of_workload.discard(pair[1])
        if not of_workload:
            del self._by_workload[pair[0], workload]
        if node is not None:
            on_node = self._by_node[node]
            on_node.discard(pair)
            if not on_node:
                del self._by_node[node]


def _pair(key: str, prefix: str) -> Pair:
    ns, _, name = key[len(prefix) :].partition("/")
    return ns, name
