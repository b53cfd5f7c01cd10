"""Commit: write the leader's changes, each compared with what they were decided on and fenced by the leadership.

:func:`operations_for` is pure; :func:`commit` does the writing, in batches that keep one change whole.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from kat_platform.errors import Conflict, InternalError, LeadershipLost
from kat_platform.interfaces.store import Compare, Delete, Leadership, Operation, Put, Store
from kat_platform.leader.changes import (
    AllocateVip,
    AssignSubnet,
    CreateInstance,
    LeaderChange,
    PinVolume,
    ReleaseVip,
    RemoveInstance,
    RemoveWorkload,
    RollBack,
    SetRollout,
    SetStanding,
    SetTrust,
    UpdateInstance,
)
from kat_platform.state import keys
from kat_platform.state.cluster import ClusterState

BATCH: Final = 1000
"""Operations in one transaction, at most (or what the store allows, if that is less)."""


@dataclass(frozen=True, slots=True)
class Write:
    """The comparisons and operations of one change."""

    compares: tuple[Compare, ...]
    operations: tuple[Operation, ...]


def operations_for(state: ClusterState, change: LeaderChange, *, now: float) -> Write:
    """Translate one change, decided on ``state``, into comparisons and operations."""
    match change:
        case CreateInstance(record):
            key = keys.instance(record.namespace, record.id)
            return Write((Compare.absent(key),), (Put(key, record.to_json()),))
        case UpdateInstance(record):
            return _put(state, keys.instance(record.namespace, record.id), record.to_json())
        case RemoveInstance(namespace, identity):
            key = keys.instance(namespace, identity)
            return Write((_same(state, key),), (Delete(key), Delete(keys.status(namespace, identity))))
        case SetRollout(namespace, workload, rollout):
            return _put(state, keys.rollout(namespace, workload), rollout.to_json())
        case RollBack():
            return _roll_back(state, change, now)
        case AllocateVip(namespace, workload, address):
            key = keys.vip(namespace, workload)
            return Write((Compare.absent(key),), (Put(key, json.dumps({"address": address}).encode()),))
        case ReleaseVip(namespace, workload):
            return Write((), (Delete(keys.vip(namespace, workload)),))
        case AssignSubnet(node, subnet):
            joined = state.nodes[node].model_copy(update={"subnet": subnet})
            claim = keys.subnet_claim(subnet)
            write = _put(state, keys.node(node), joined.to_json())
            taken = Put(claim, json.dumps({"node": node}).encode())
            return Write((*write.compares, _same(state, claim)), (*write.operations, taken))
        case PinVolume(namespace, workload, volume, node):
            key = keys.pin(namespace, workload, volume)
            return Write((Compare.absent(key),), (Put(key, json.dumps({"node": node}).encode()),))
        case SetStanding(node, standing):
            key = keys.standing(node)
            if standing is None:
                return Write((), (Delete(key),))
            return _put(state, key, standing.to_json())
        case SetTrust(record):
            return _put(state, keys.TRUST, record.to_json())
        case RemoveWorkload(namespace, workload):
            return _remove_workload(state, namespace, workload)


def _same(state: ClusterState, key: str) -> Compare:
    return Compare.unchanged(key, state.key_revisions.get(key, 0))


def _put(state: ClusterState, key: str, value: bytes) -> Write:
    return Write((_same(state, key),), (Put(key, value),))


def _remove_workload(state: ClusterState, namespace: str, workload: str) -> Write:
    key = keys.workload(namespace, workload)
    operations: tuple[Operation, ...] = (
        Delete(key),
        Delete(keys.rollout(namespace, workload)),
        Delete(keys.vip(namespace, workload)),
        Delete(keys.revisions_of(namespace, workload), prefix=True),
    )
    return Write((_same(state, key),), operations)


def _roll_back(state: ClusterState, change: RollBack, now: float) -> Write:
    ns, name = change.namespace, change.workload
    record, stable = state.workloads[ns, name], state.revisions.get((ns, name, change.to_revision))
    if stable is None:
        raise InternalError(f"revision {change.to_revision} of {ns}/{name} is gone: cannot roll back to it")
    number = 1 + max(n for (n_ns, n_name, n) in state.revisions if (n_ns, n_name) == (ns, name))
    cause = f"rollback to {change.to_revision} (revision {change.failed_revision} made no progress)"
    update = {"number": number, "created_at": now, "cause": cause, "created_by": "leader"}
    again = stable.model_copy(update=update)
    key, revision_key = keys.workload(ns, name), keys.revision(ns, name, number)
    return Write(
        (_same(state, key), Compare.absent(revision_key)),
        (
            Put(revision_key, again.to_json()),
            Put(key, record.model_copy(update={"revision": number}).to_json()),
        ),
    )


def batches(writes: Iterable[Write], limit: int) -> Iterable[tuple[Write, ...]]:
    """Pack writes into batches of at most ``limit`` operations (and comparisons), keeping each write whole."""
    batch: list[Write] = []
    operations = compares = 0
    for write in writes:
        full = operations + len(write.operations) > limit or compares + len(write.compares) > limit - 1
        if batch and full:
            yield tuple(batch)
            batch, operations, compares = [], 0, 0
        batch.append(write)
        operations += len(write.operations)
        compares += len(write.compares)
    if batch:
        yield tuple(batch)


async def commit(
    store: Store, leadership: Leadership, state: ClusterState, changes: Sequence[LeaderChange], *, now: float
) -> int:
    """Write the changes; gives the store's revision after the last of them.

    Raises ``LeadershipLost`` when this is not the leader any more (nothing of the refused batch is written, nor of
    those after
    it) and ``Conflict`` when something changed since ``state``: decide again on a newer one.
    """
    writes = [operations_for(state, change, now=now) for change in changes]
    revision = state.revision
    for batch in batches(writes, min(BATCH, store.max_operations)):
        compares = (leadership.fence(), *(compare for write in batch for compare in write.compares))
        operations = tuple(operation for write in batch for operation in write.operations)
        result = await store.transaction(compares, operations)
        if not result.succeeded:
            await _explain_refusal(store, leadership)
        revision = result.revision
    return revision


async def _explain_refusal(store: Store, leadership: Leadership) -> None:
    entry = await store.get(leadership.key)
    if entry is None or entry.created != leadership.revision:
        raise LeadershipLost("another node leads now: nothing was written")
    raise Conflict("the state changed while the leader was deciding; it decides again")
