"""Trust: moves a change of the cluster's CA on. Pure.

Nobody may ever meet a certificate that it does not accept. So a phase begins only when every node has reported that it
has done what the one before asks for, and what a node reports it keeps through any crash:

``Spreading``: every node trusts both CAs, the store's members too, and every control-plane node has the new key;
``Signing``: every node has a certificate of the new CA; it stays so until somebody asks for the finish;
``Finishing``: every node has forgotten the former CA.

A store's member may have to start anew to trust other CAs. Then they do so one after the other: the record says whose
turn it is, and it is nobody's while a control-plane node is away or unwell.
"""

from __future__ import annotations

from typing import Final

from kat_platform.model.node import NodeRecord, NodeRole
from kat_platform.model.trust import NodeTrust, RotationPhase, TrustRecord, Waiting
from kat_platform.state.cluster import ClusterState

FORMER_KEPT: Final = 16
"""How many replaced CAs are remembered, to tell people why what they have is refused."""


def advance(state: ClusterState) -> TrustRecord | None:
    """Give the record as it is to be from now on; ``None`` when it is to stay."""
    record = state.trust
    if record is None or record.phase is RotationPhase.SETTLED:
        return None
    moved = record
    if not waiting(state):
        moved = _next(record)
    moved = moved.model_copy(update={"store_turn": _turn(state, moved)})
    return None if moved == record else moved


def _next(record: TrustRecord) -> TrustRecord:
    match record.phase:
        case RotationPhase.SPREADING:
            return record.model_copy(update={"phase": RotationPhase.SIGNING, "signer": record.newest})
        case RotationPhase.SIGNING if record.finish_wanted:
            *replaced, newest = record.authorities
            former = (*record.former, *(each.fingerprint for each in replaced))
            update = {"authorities": (newest,), "former": former[-FORMER_KEPT:], "sealed_key": "", "link": ""}
            return record.model_copy(update={"phase": RotationPhase.FINISHING, **update})
        case RotationPhase.FINISHING:
            return record.model_copy(update={"phase": RotationPhase.SETTLED, "finish_wanted": False})
    return record


def waiting(state: ClusterState) -> tuple[Waiting, ...]:
    """Name each node that the present phase waits for, and what for."""
    record = state.trust
    if record is None or record.phase is RotationPhase.SETTLED:
        return ()
    found = []
    for name, node in sorted(state.nodes.items()):
        if name in record.left_behind and name not in state.alive:  # one that comes back in time is waited for again
            continue
        report = state.reports.get(name)
        reason = _lacks(record, node, report.trust if report is not None else None)
        if reason:
            found.append(Waiting(node=name, reason=reason, away=name not in state.alive))
    return tuple(found)


def _lacks(record: TrustRecord, node: NodeRecord, trust: NodeTrust | None) -> str:
    """Say what a node has not done yet; empty when it has done all that the phase asks for."""
    if trust is None:
        return "has not said which CAs it trusts"
    if record.phase is RotationPhase.SIGNING:
        return "" if trust.issuer == record.signer else "has no certificate of the new CA yet"
    if set(trust.trusts) != record.trusted:
        spreading = record.phase is RotationPhase.SPREADING
        return "does not trust the new CA yet" if spreading else "still trusts the former CA"
    if node.role is NodeRole.CONTROL_PLANE and record.newest not in trust.holds:
        return "does not have the new CA's key yet"
    if _store_behind(record, node, trust):
        return "its member of the store has yet to start anew"
    return ""


def _store_behind(record: TrustRecord, node: NodeRecord, trust: NodeTrust) -> bool:
    told = trust.store_trusts
    return node.role is NodeRole.CONTROL_PLANE and told is not None and set(told) != record.trusted


def _turn(state: ClusterState, record: TrustRecord) -> str:
    """Give whose member of the store may start anew: one at a time, and only while all are well."""
    if record.phase not in (RotationPhase.SPREADING, RotationPhase.FINISHING):
        return ""
    members = [node for _, node in sorted(state.nodes.items()) if node.role is NodeRole.CONTROL_PLANE]
    behind = []
    for node in members:
        report = state.reports.get(node.name)
        trust = report.trust if report is not None else None
        if trust is not None and set(trust.trusts) == record.trusted and _store_behind(record, node, trust):
            behind.append(node.name)
    if record.store_turn in behind:
        return record.store_turn
    return behind[0] if behind and all(_well(state, node.name) for node in members) else ""


def _well(state: ClusterState, name: str) -> bool:
    report = state.reports.get(name)
    if name not in state.alive or report is None:
        return False
    return all(each.status for each in report.conditions if each.type in ("Ready", "DriversHealthy"))
