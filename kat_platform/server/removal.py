"""Removal: takes a node out of the cluster, with everything it had a claim on, and revokes its certificates."""

from __future__ import annotations

import json
from typing import Final

import structlog

from kat_platform.errors import Conflict
from kat_platform.interfaces.store import Delete, HasMembers, Operation, Put
from kat_platform.leader.drain import progress
from kat_platform.model.event import Event, EventType
from kat_platform.model.node import NodeRecord, NodeRole
from kat_platform.server.api import Api
from kat_platform.state import keys
from kat_platform.state.cluster import ClusterState
from kat_platform.state.repository import Found

log = structlog.get_logger(__name__)

_SHOWN: Final = 5


async def remove_node(api: Api, found: Found[NodeRecord], *, force: bool, by: str) -> None:
    """Remove a node. Raises ``Conflict`` when it may not go, or when it changed meanwhile.

    Without ``force`` a node with instances that have not been replaced, or with volumes, is refused.
    """
    record = found.value
    if not force:
        refuse_in_use(api.state, record.name)
    if record.role is NodeRole.CONTROL_PLANE:
        await _take_out_member(api, record)
    state = api.state
    operations: list[Operation] = [
        Delete(found.key),
        Delete(keys.node_report(record.name)),
        Delete(keys.alive(record.name)),
        Delete(keys.standing(record.name)),
        *_claims(state, record),
        *await _revocations(api, record.name, by),
    ]
    revision = await api.repository.commit([found.unchanged()], operations, f"node '{record.name}'")
    # A certificate that was renewed in between; after the record is gone there can be no further one.
    late = await _revocations(api, record.name, by)
    if late:
        revision = await api.repository.commit([], late, f"certificates of node '{record.name}'")
    await api.leases.drop(record.name)
    forced = ", although instances or volumes were left on it" if force and _in_use(state, record.name) else ""
    text = f"{by} removed it{forced}; its certificates are refused from now on"
    api.events.note(
        Event(
            type=EventType.WARNING if forced else EventType.NORMAL,
            reason="NodeRemoved",
            object_kind="Node",
            object_name=record.name,
            message=text,
            source="api",
        )
    )
    await api.caught_up(revision)
    log.info("node-removed", node=record.name, by=by, forced=bool(forced))


def refuse_in_use(state: ClusterState, name: str) -> None:
    """Raise ``Conflict`` while a node has instances that were not replaced, or the only copy of a volume. Pure."""
    reasons = _in_use(state, name)
    if not reasons:
        return
    hint = f"katcall node drain {name} --include-daemons moves what can move; --force removes it as it is"
    raise Conflict(f"node '{name}' is in use: {'; '.join(reasons)}", hint=hint)


def refuse_leaving(state: ClusterState, record: NodeRecord) -> None:
    """Raise ``Conflict`` when a node can never leave in order as things are; said before it is drained. Pure."""
    name = record.name
    volumes = _volumes(state, name)
    if volumes:
        raise Conflict(
            f"node '{name}' cannot leave: the data of {', '.join(volumes)} lies there and nowhere else",
            hint="move or delete those workloads first; 'kat-agent leave --force' leaves all the same",
        )
    if record.role is not NodeRole.CONTROL_PLANE:
        return
    others = {n for n, r in state.nodes.items() if r.role is NodeRole.CONTROL_PLANE and n != name}
    if not others:
        raise Conflict(
            f"node '{name}' is the only control-plane node: without it there is no cluster",
            hint="join another one first; 'kat-agent reset' ends the cluster with all that is in it",
        )
    away = others - set(state.alive)
    if len(others - away) <= len(others) // 2:
        raise Conflict(
            f"node '{name}' cannot leave while {', '.join(sorted(away))} is away: that would cost the quorum",
            hint=f"bring it back, or 'katcall node remove {min(away)} --force' if it is gone for good",
        )


def _in_use(state: ClusterState, name: str) -> list[str]:
    reasons = []
    there = progress(state, name, daemons=True).instances
    if there:
        names = ", ".join(f"{item.namespace}/{item.instance}" for item in there[:_SHOWN])
        reasons.append(f"it has {len(there)} instance{'s' * (len(there) != 1)} ({names})")
    volumes = _volumes(state, name)
    if volumes:
        reasons.append(f"the data of {', '.join(volumes[:_SHOWN])} lies there and nowhere else")
    return reasons


def _volumes(state: ClusterState, name: str) -> list[str]:
    return sorted(f"{ns}/{workload}/{volume}" for (ns, workload, volume), node in state.pins.items() if node == name)


def _claims(state: ClusterState, record: NodeRecord) -> list[Operation]:
    """Give up the subnet and the overlay key, so that another node may have them."""
    claims = [] if record.subnet is None else [keys.subnet_claim(record.subnet)]
    report = state.reports.get(record.name)
    public = {record.public_key, report.public_key if report is not None else ""} - {""}
    return [Delete(key) for key in (*claims, *(keys.public_key_claim(each) for each in sorted(public)))]


async def _revocations(api: Api, name: str, by: str) -> list[Operation]:
    """Revoke every certificate the node was given, as far as it is noted."""
    operations: list[Operation] = []
    prefix = f"{keys.CERTIFICATES}{name}/"
    for entry in (await api.deps.store.list(prefix)).entries:
        serial = int(entry.key.removeprefix(prefix), 16)
        note = {"node": name, "at": api.now(), "by": by, **json.loads(entry.value)}
        operations += [Put(keys.revoked(serial), json.dumps(note).encode()), Delete(entry.key)]
    return operations


async def _take_out_member(api: Api, record: NodeRecord) -> None:
    """Take a control-plane node's member out of the store, which refuses when quorum would be lost."""
    name = record.name
    others = [n for n, r in api.state.nodes.items() if r.role is NodeRole.CONTROL_PLANE and n != name]
    if not others:
        raise Conflict(f"node '{name}' is the only control-plane node: without it there is no cluster")
    if name == api.deps.node_name:
        raise Conflict(
            f"node '{name}' serves this very request and cannot take itself out",
            hint=f"ask another control-plane node ({', '.join(sorted(others))}): its API does it",
        )
    store = api.deps.store
    if not isinstance(store, HasMembers):
        return
    place = f"//{record.overlay_address}:"  # a member that never started has no name yet
    for member in (await store.store_status()).members:
        if member.name == name or any(place in url for url in member.peer_urls):
            await store.remove_member(member.id)
