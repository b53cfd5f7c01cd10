"""ClusterState: the whole of what the store holds, parsed, as of one revision; immutable.

:func:`advance` folds changes into a new state and parses only what changed. The state is replaced whole: whoever holds
one sees no change in it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

import structlog

from kat_platform.interfaces.store import Change, ChangeType
from kat_platform.model.cluster import ClusterConfiguration
from kat_platform.model.event import Event
from kat_platform.model.instance import InstanceRecord, InstanceStatus
from kat_platform.model.namespace import Namespace
from kat_platform.model.node import NodeRecord, NodeReport, NodeStanding
from kat_platform.model.revision import Revision, Rollout, WorkloadRecord
from kat_platform.model.trust import TrustRecord
from kat_platform.state import keys

log = structlog.get_logger(__name__)

Pair = tuple[str, str]
Triple = tuple[str, str, int]


@dataclass(frozen=True, slots=True)
class ClusterState:
    """Everything, by name. Keys of namespaced things are ``(namespace, name)``; revisions add their number."""

    revision: int = 0
    """Of the store: everything up to it is in here."""
    restored: str = ""
    """Id of the last restore from a backup, empty when there was none. The store's revision went back then, so what
    is to be new must not be named by the revision alone."""
    configuration: ClusterConfiguration | None = None
    nodes: Mapping[str, NodeRecord] = field(default_factory=dict)
    reports: Mapping[str, NodeReport] = field(default_factory=dict)
    alive: frozenset[str] = frozenset()
    standings: Mapping[str, NodeStanding] = field(default_factory=dict)
    namespaces: Mapping[str, Namespace] = field(default_factory=dict)
    workloads: Mapping[Pair, WorkloadRecord] = field(default_factory=dict)
    revisions: Mapping[Triple, Revision] = field(default_factory=dict)
    rollouts: Mapping[Pair, Rollout] = field(default_factory=dict)
    vips: Mapping[Pair, str] = field(default_factory=dict)
    instances: Mapping[Pair, InstanceRecord] = field(default_factory=dict)
    statuses: Mapping[Pair, InstanceStatus] = field(default_factory=dict)
    pins: Mapping[tuple[str, str, str], str] = field(default_factory=dict)
    """Node on which a volume lies, by (namespace, workload, volume)."""
    events: Mapping[Pair, Event] = field(default_factory=dict)
    trust: TrustRecord | None = None
    """The CAs; ``None`` while the cluster has never changed its CA."""
    revoked: Mapping[str, float] = field(default_factory=dict)
    """When each revoked certificate would have ended by itself, by serial number (``0x...``)."""
    key_revisions: Mapping[str, int] = field(default_factory=dict)
    """The store's revision of the last write of each key: what compare-and-set and ETags need."""

    def target(self, ns: str, name: str) -> Revision | None:
        """Give the revision a workload is to run, or ``None`` when there is no such workload."""
        record = self.workloads.get((ns, name))
        return None if record is None else self.revisions.get((ns, name, record.revision))

    def instances_of(self, ns: str, name: str) -> tuple[InstanceRecord, ...]:
        """Give a workload's instances, oldest first."""
        found = [i for i in self.instances.values() if i.namespace == ns and i.workload == name]
        return tuple(sorted(found, key=lambda i: (i.created_at, i.id)))


@dataclass(frozen=True, slots=True)
class _Table:
    prefix: str
    attribute: str
    key: Callable[[tuple[str, ...]], Any]
    parse: Callable[[bytes], Any]


def _vip(data: bytes) -> str:
    return str(json.loads(data)["address"])


def _restored(data: bytes) -> str:
    return str(json.loads(data)["id"])


def _pin(data: bytes) -> str:
    return str(json.loads(data)["node"])


def _end(data: bytes) -> float:
    return float(json.loads(data).get("expiresAt", 0.0))


_ONE: Final[Callable[[tuple[str, ...]], Any]] = lambda p: p[0]  # noqa: E731 - a table of small functions
_TWO: Final[Callable[[tuple[str, ...]], Any]] = lambda p: (p[0], p[1])  # noqa: E731
_NUMBERED: Final[Callable[[tuple[str, ...]], Any]] = lambda p: (p[0], p[1], int(p[2]))  # noqa: E731
_THREE: Final[Callable[[tuple[str, ...]], Any]] = lambda p: (p[0], p[1], p[2])  # noqa: E731

_TABLES: Final = (
    _Table(keys.STATUSES, "statuses", _TWO, InstanceStatus.from_json),
    _Table(keys.INSTANCES, "instances", _TWO, InstanceRecord.from_json),
    _Table(keys.EVENTS, "events", _TWO, Event.from_json),
    _Table(keys.ROLLOUTS, "rollouts", _TWO, Rollout.from_json),
    _Table(keys.WORKLOADS, "workloads", _TWO, WorkloadRecord.from_json),
    _Table(keys.REVISIONS, "revisions", _NUMBERED, Revision.from_json),
    _Table(keys.VIPS, "vips", _TWO, _vip),
    _Table(keys.NODES, "nodes", _ONE, NodeRecord.from_json),
    _Table(keys.NODE_REPORTS, "reports", _ONE, NodeReport.from_json),
    _Table(keys.STANDINGS, "standings", _ONE, NodeStanding.from_json),
    _Table(keys.NAMESPACES, "namespaces", _ONE, Namespace.from_json),
    _Table(keys.PINS, "pins", _THREE, _pin),
    _Table(keys.REVOKED, "revoked", _ONE, _end),
)


def advance(state: ClusterState, changes: Iterable[Change], revision: int) -> ClusterState:
    """Fold changes into a new state as of ``revision``.

    A value that cannot be read (written by a newer version, or by hand) is logged and treated as absent, so that one
    bad
    object does not stop the cluster.
    """
    touched: dict[str, Any] = {}
    key_revisions: dict[str, int] | None = None
    for change in changes:
        key, entry = change.entry.key, change.entry
        deleted = change.type is ChangeType.DELETE
        if key_revisions is None:
            key_revisions = dict(state.key_revisions)
        if deleted:
            key_revisions.pop(key, None)
        else:
            key_revisions[key] = entry.revision
        if key.startswith(keys.ALIVE):
            alive = touched.setdefault("alive", set(state.alive))
            (alive.discard if deleted else alive.add)(key[len(keys.ALIVE) :])
        elif key == keys.CLUSTER:
            touched["configuration"] = None if deleted else _read(key, entry.value, ClusterConfiguration.from_json)
        elif key == keys.TRUST:
            touched["trust"] = None if deleted else _read(key, entry.value, TrustRecord.from_json)
        elif key == keys.RESTORED:
            touched["restored"] = "" if deleted else _read(key, entry.value, _restored) or ""
        else:
            _fold(state, touched, key, None if deleted else entry.value)
    if "alive" in touched:
        touched["alive"] = frozenset(touched["alive"])
    if key_revisions is not None:
        touched["key_revisions"] = key_revisions
    return replace(state, revision=revision, **touched)


def _fold(state: ClusterState, touched: dict[str, Any], key: str, value: bytes | None) -> None:
    for table in _TABLES:
        if key.startswith(table.prefix):
            mapping = touched.get(table.attribute)
            if mapping is None:
                mapping = touched[table.attribute] = dict(getattr(state, table.attribute))
            name = table.key(keys.split(key, table.prefix))
            parsed = None if value is None else _read(key, value, table.parse)
            if parsed is None:
                mapping.pop(name, None)
            else:
                mapping[name] = parsed
            return


def _read(key: str, value: bytes, parse: Callable[[bytes], Any]) -> Any:
    try:
        return parse(value)
    except (ValueError, KeyError, TypeError) as error:  # pydantic's ValidationError is a ValueError
        log.error("unreadable value in the store", key=key, error=str(error)[:300])
        return None
