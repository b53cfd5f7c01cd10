"""Notify: tells hook plugins how instances and nodes changed. Runs on the leader, from the state's changes."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from kat_platform.hooks.types import InstanceChange, NodeChange
from kat_platform.interfaces.store import Change
from kat_platform.leader.placement import node_ready
from kat_platform.model.instance import is_ready, phase_of
from kat_platform.registry.announce import Announcer
from kat_platform.state import keys
from kat_platform.state.cache import StateCache
from kat_platform.state.cluster import ClusterState

_INSTANCE_PREFIXES: Final = (keys.INSTANCES, keys.STATUSES)
_NODE_PREFIXES: Final = (keys.NODES, keys.NODE_REPORTS, keys.ALIVE)


class Notifier:
    """Compares each state with the one before, as far as it changed, and announces the difference."""

    def __init__(self, cache: StateCache, announcer: Announcer) -> None:
        self._cache, self._announcer = cache, announcer
        self._before = cache.state

    def start(self) -> None:
        """Follow the state from now on; with no hook plugins there is nobody to tell, and nothing is done."""
        if self._announcer.plugins:
            self._before = self._cache.state
            self._unsubscribe = self._cache.subscribe(self._look)
        else:
            self._unsubscribe = lambda: None

    def stop(self) -> None:
        """Stop following."""
        self._unsubscribe()

    def _look(self, state: ClusterState, changes: tuple[Change, ...]) -> None:
        before, self._before = self._before, state
        touched = [change.entry.key for change in changes]
        for instance in instance_changes(before, state, touched):
            self._announcer.instance_changed(instance)
        for node in node_changes(before, state, touched):
            self._announcer.node_changed(node)


def instance_changes(before: ClusterState, after: ClusterState, touched: Iterable[str]) -> list[InstanceChange]:
    """Give the instances among the touched keys whose phase or readiness differs. Pure."""
    names = {keys.split(key, prefix) for key in touched for prefix in _INSTANCE_PREFIXES if key.startswith(prefix)}
    found = []
    for name in sorted(names):
        if len(name) != 2:
            continue
        pair = (name[0], name[1])
        old, new = before.instances.get(pair), after.instances.get(pair)
        record = new or old
        if record is None:
            continue
        old_status, status = before.statuses.get(pair), after.statuses.get(pair)
        was = None if old is None else phase_of(old, old_status).value
        now = None if new is None else phase_of(new, status).value
        ready = new is not None and is_ready(new, status)
        if (was, old is not None and is_ready(old, old_status)) == (now, ready):
            continue
        found.append(
            InstanceChange(
                namespace=record.namespace,
                workload=record.workload,
                instance=record.id,
                node=record.node,
                phase_before=was,
                phase=now,
                ready=ready,
                reason=status.reason if status is not None else record.unplaceable,
                document={"record": record.to_wire(), "status": None if status is None else status.to_wire()},
            )
        )
    return found


def node_changes(before: ClusterState, after: ClusterState, touched: Iterable[str]) -> list[NodeChange]:
    """Give the nodes among the touched keys that joined, left, or became ready or not. Pure."""
    names = {key[len(prefix) :] for key in touched for prefix in _NODE_PREFIXES if key.startswith(prefix)}
    found = []
    for name in sorted(names):
        was = node_ready(before, name)[0] if name in before.nodes else None
        ready, reason = node_ready(after, name)
        now = ready if name in after.nodes else None
        if was != now:
            record = after.nodes.get(name) or before.nodes.get(name)
            document = {} if record is None else {"record": record.to_wire()}
            found.append(NodeChange(name, was, now, reason, document))
    return found
