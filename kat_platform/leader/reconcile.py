"""Reconcile: compare what should be with what is, and name the changes. Pure.

Placement is not decided here: new instances of Services come without a node, and the scheduler gets them next. The
same state, time and grace give the same changes, ids included.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Final

from kat_platform.leader import daemons, liveness, rollout, trust
from kat_platform.leader.addresses import next_subnet, next_vip
from kat_platform.leader.changes import (
    AllocateVip,
    AssignSubnet,
    CreateInstance,
    LeaderChange,
    ReleaseVip,
    RemoveInstance,
    RemoveWorkload,
    RollBack,
    SetRollout,
    SetTrust,
    UpdateInstance,
)
from kat_platform.leader.moving import must_move, reason_to_leave
from kat_platform.leader.template import template_digest
from kat_platform.model.instance import Desired, InstanceRecord, InstanceStatus, Phase, is_ready
from kat_platform.model.revision import Revision, Rollout, RolloutState, WorkloadRecord
from kat_platform.state.cluster import ClusterState

_ALPHABET: Final = "bcdfghjkmnpqrstvwxz23456789"


@dataclass(slots=True)
class Reconciliation:
    """What came of one pass: the changes, which daemon goes to which node, and when to look again."""

    changes: list[LeaderChange] = field(default_factory=list)
    only_node: dict[str, str] = field(default_factory=dict)
    wake_at: float | None = None

    def wake(self, at: float | None) -> None:
        """Ask for another pass at ``at`` (seconds since the epoch), or sooner if one is asked for already."""
        if at is not None and (self.wake_at is None or at < self.wake_at):
            self.wake_at = at


def reconcile(state: ClusterState, *, now: float, judge_loss: bool) -> Reconciliation:
    """Name every change the leader should make now.

    ``judge_loss`` is false while a new leader cannot yet know which nodes are alive: then no node is found lost.
    """
    result = Reconciliation()
    if state.configuration is None:
        return result
    _subnets(state, result)
    changed = trust.advance(state)
    if changed is not None:
        result.changes.append(SetTrust(changed))
    judgement = liveness.judge(state, now=now, judge_loss=judge_loss)
    result.changes.extend(judgement.changes)
    result.wake(judgement.wake_at)
    records = _settle(state, result, now, judgement.given_up)
    by_workload: dict[tuple[str, str], list[InstanceRecord]] = {}
    for record in records.values():
        by_workload.setdefault((record.namespace, record.workload), []).append(record)
    _virtual_ips(state, result)
    for key, workload in sorted(state.workloads.items()):
        _workload(state, result, workload, by_workload.pop(key, []), judgement.given_up, now)
    for orphans in by_workload.values():  # their workload's record is gone: nothing may be left of it
        for record in orphans:
            _stop(result, record, "its workload was deleted", now)
    for key in sorted(state.rollouts.keys() - state.workloads.keys()):
        result.changes.append(RemoveWorkload(*key))
    return result


def _subnets(state: ClusterState, result: Reconciliation) -> None:
    assert state.configuration is not None
    taken = {node.subnet for node in state.nodes.values() if node.subnet is not None}
    for name, node in sorted(state.nodes.items(), key=lambda item: (item[1].created_at, item[0])):
        if node.subnet is None:
            subnet = next_subnet(state.configuration.spec, taken)
            if subnet is not None:
                taken.add(subnet)
                result.changes.append(AssignSubnet(name, subnet))


def _virtual_ips(state: ClusterState, result: Reconciliation) -> None:
    assert state.configuration is not None
    wanted = {
        key
        for key, record in state.workloads.items()
        if not record.deleting and (target := state.target(*key)) is not None and _balanced(target)
    }
    busy = {(record.namespace, record.workload) for record in state.instances.values()}
    taken = set(state.vips.values())
    for key, address in sorted(state.vips.items()):
        if key not in wanted and key not in busy | state.workloads.keys():
            result.changes.append(ReleaseVip(*key))
        elif key not in wanted and key in state.workloads and not state.workloads[key].deleting:
            result.changes.append(ReleaseVip(*key))
            taken.discard(address)
    for key in sorted(wanted - state.vips.keys()):
        free = next_vip(state.configuration.spec, taken)
        if free is not None:
            taken.add(free)
            result.changes.append(AllocateVip(*key, free))


def _balanced(revision: Revision) -> bool:
    return revision.load_balancer is not None and bool(revision.load_balancer.spec.ports)


def _settle(
    state: ClusterState, result: Reconciliation, now: float, given_up: frozenset[str]
) -> Mapping[tuple[str, str], InstanceRecord]:
    """Follow nodes that were lost or came back, and forget what is gone; give the records that remain."""
    kept: dict[tuple[str, str], InstanceRecord] = {}
    for key, record in sorted(state.instances.items()):
        status = state.statuses.get(key)
        if _is_gone(state, record, status):
            result.changes.append(RemoveInstance(*key))
            continue
        if record.node in given_up and record.lost_at is None:
            record = record.model_copy(update={"lost_at": now})
            result.changes.append(UpdateInstance(record, f"lost with node {record.node}"))
        elif record.lost_at is not None and record.desired is Desired.STOP and record.node in state.alive:
            record = record.model_copy(update={"lost_at": None})
            result.changes.append(UpdateInstance(record, f"node {record.node} is back, and is to stop it"))
        kept[key] = record
    return kept


def _is_gone(state: ClusterState, record: InstanceRecord, status: InstanceStatus | None) -> bool:
    if record.node is not None and record.node not in state.nodes:
        return True
    if record.desired is Desired.RUN:
        return False
    return record.node is None or (status is not None and status.phase.terminal)


def _workload(
    state: ClusterState,
    result: Reconciliation,
    workload: WorkloadRecord,
    records: list[InstanceRecord],
    given_up: frozenset[str],
    now: float,
) -> None:
    ns, name = workload.namespace, workload.name
    target = state.target(ns, name)
    if workload.deleting or target is None:
        for record in records:
            _stop(result, record, "its workload was deleted", now)
        if workload.deleting and not records:
            result.changes.append(RemoveWorkload(ns, name))
        return
    before = state.rollouts.get((ns, name))
    progress = _rollout_of(workload, before, now)
    kind = target.document.spec.type
    if kind == "DaemonService":
        places = daemons.places(state, target, given_up)
        _daemon(state, result, workload, target, records, progress, places, now)
    elif kind == "Service":
        _service(state, result, workload, target, records, progress, now)


def _rollout_of(workload: WorkloadRecord, before: Rollout | None, now: float) -> Rollout:
    """Give the rollout of the workload's present target: the one going on, or a new one."""
    if before is None:
        return Rollout(
            revision=workload.revision,
            generation=workload.generation,
            started_at=now,
            progress_at=now,
            resumes=workload.resumes,
        )
    if (before.revision, before.generation) != (workload.revision, workload.generation):
        return Rollout(
            revision=workload.revision,
            generation=workload.generation,
            started_at=now,
            progress_at=now,
            resumes=workload.resumes,
            stable_revision=before.stable_revision,
        )
    if workload.resumes > before.resumes:
        update = {"resumes": workload.resumes, "progress_at": now, "message": ""}
        if before.state is RolloutState.PAUSED:
            update["state"] = RolloutState.PROGRESSING
        return before.model_copy(update=update)
    return before


def _service(
    state: ClusterState,
    result: Reconciliation,
    workload: WorkloadRecord,
    target: Revision,
    records: list[InstanceRecord],
    progress: Rollout,
    now: float,
) -> None:
    spec = target.document.spec
    wanted = spec.replicas if workload.replicas is None else workload.replicas
    records = _welcome_back(state, result, records, now)
    running = [r for r in records if r.desired is Desired.RUN and r.lost_at is None]
    leaving = [r for r in records if r.desired is Desired.STOP and r.lost_at is None]
    facts = [_fact(state, r, workload, target) for r in running]
    decision = rollout.decide(spec, wanted, facts, progress, held=workload.paused, stopping=len(leaving), now=now)
    result.wake(decision.wake_at)
    if decision.rollout is not None and decision.rollout != state.rollouts.get((workload.namespace, workload.name)):
        result.changes.append(SetRollout(workload.namespace, workload.name, decision.rollout))
    if decision.roll_back and decision.rollout is not None and decision.rollout.stable_revision is not None:
        back_to = decision.rollout.stable_revision
        result.changes.append(RollBack(workload.namespace, workload.name, back_to, workload.revision))
        return
    by_id = {r.id: r for r in running}
    for identity, why in decision.stop:
        _stop(result, by_id[identity], why, now)
    outgoing = [r for r in leaving if not _matches(state, r, workload, target) or reason_to_leave(state, r)]
    if rollout.simultaneous_waits(spec, len(outgoing)):
        return
    stable = _stable_number(state, progress, target)
    for record in _fresh(state, workload, decision.create, target.number, now):
        result.changes.append(CreateInstance(record))
    for record in _fresh(state, workload, decision.create_stable, stable, now):
        result.changes.append(CreateInstance(record))


def _stable_number(state: ClusterState, progress: Rollout, target: Revision) -> int:
    stable = progress.stable_revision
    known = stable is not None and (target.namespace, target.workload, stable) in state.revisions
    return stable if known and stable is not None else target.number


def _welcome_back(
    state: ClusterState, result: Reconciliation, records: list[InstanceRecord], now: float
) -> list[InstanceRecord]:
    """Count instances again whose lost node is back; where they were replaced they are the first to stop."""
    kept = []
    for record in records:
        if record.lost_at is not None and record.node in state.alive and record.desired is Desired.RUN:
            record = record.model_copy(update={"lost_at": None})
            result.changes.append(UpdateInstance(record, f"node {record.node} is back"))
        kept.append(record)
    return kept


def _fact(state: ClusterState, record: InstanceRecord, workload: WorkloadRecord, target: Revision) -> rollout.Fact:
    status = state.statuses.get((record.namespace, record.id))
    before = state.instances.get((record.namespace, record.id))
    trouble = ""
    if record.node is None:
        trouble = record.unplaceable
    elif status is not None and not status.ready:
        trouble = status.message or status.reason
    return rollout.Fact(
        id=record.id,
        current=_matches(state, record, workload, target),
        # What a node said before it fell silent is no reason to stop anything elsewhere.
        ready=is_ready(record, status) and record.node in state.alive,
        ready_since=None if status is None else status.ready_since,
        created_at=record.created_at,
        placed=record.node is not None,
        terminal=status is not None and status.phase in (Phase.FAILED, Phase.SUCCEEDED),
        returned=before is not None and before.lost_at is not None,
        node=record.node or "",
        trouble=trouble,
        must_move=must_move(state, record),
    )


def _matches(state: ClusterState, record: InstanceRecord, workload: WorkloadRecord, target: Revision) -> bool:
    if record.generation != workload.generation:
        return False
    own = state.revisions.get((record.namespace, record.workload, record.revision))
    return own is not None and template_digest(own) == template_digest(target)


def _stop(result: Reconciliation, record: InstanceRecord, why: str, now: float) -> None:
    if record.desired is Desired.STOP:
        return
    stopped = record.model_copy(update={"desired": Desired.STOP, "stop_reason": why, "stop_at": now})
    # An earlier change of the same record in this pass is folded into this one: a key is written once.
    result.changes[:] = [
        c for c in result.changes if not (isinstance(c, UpdateInstance) and c.record.key == record.key)
    ]
    result.changes.append(UpdateInstance(stopped, f"stop: {why}"))


def _fresh(
    state: ClusterState, workload: WorkloadRecord, count: int, revision: int, now: float
) -> Iterator[InstanceRecord]:
    for index in range(count):
        yield InstanceRecord(
            id=fresh_id(state, workload.namespace, workload.name, f"{revision}/{index}"),
            namespace=workload.namespace,
            workload=workload.name,
            revision=revision,
            generation=workload.generation,
            created_at=now,
        )


def fresh_id(state: ClusterState, ns: str, workload: str, salt: str) -> str:
    """Give an id no instance has: deterministic in the state's revision, so that a pass can be repeated.

    After a restore from a backup the revisions come a second time: the id of that restore sets them apart, or a new
    instance could have the name of one that a node still runs.
    """
    attempt = 0
    while True:
        text = f"{ns}/{workload}/{salt}/{state.restored}{state.revision}/{attempt}"
        number = int.from_bytes(sha256(text.encode()).digest()[:8])
        letters = ""
        for _ in range(5):
            number, digit = divmod(number, len(_ALPHABET))
            letters += _ALPHABET[digit]
        identity = f"{workload[:57]}-{letters}"
        if (ns, identity) not in state.instances:
            return identity
        attempt += 1


def _daemon(
    state: ClusterState,
    result: Reconciliation,
    workload: WorkloadRecord,
    target: Revision,
    records: list[InstanceRecord],
    progress: Rollout,
    places: Mapping[str, daemons.Place],
    now: float,
) -> None:
    records = _welcome_back(state, result, records, now)
    running = [r for r in records if r.desired is Desired.RUN and r.lost_at is None]
    bound = {r.key: r.node or daemons.node_of(r) for r in running}
    facts = [(bound[r.key], _fact(state, r, workload, target)) for r in running]
    busy = frozenset(r.node for r in records if r.desired is Desired.STOP and r.node is not None)
    decision = daemons.decide(target.document.spec, places, facts, busy, progress, held=workload.paused, now=now)
    by_id = {r.id: r for r in running}
    for identity, why in decision.stop:
        _stop(result, by_id[identity], why, now)
    for node in decision.create_on:
        record = InstanceRecord(
            id=fresh_id(state, workload.namespace, workload.name, node),
            namespace=workload.namespace,
            workload=workload.name,
            revision=target.number,
            generation=workload.generation,
            created_at=now,
        )
        record = daemons.bind(record, node)
        result.changes.append(CreateInstance(record))
    for record in running:
        if record.node is None:
            result.only_node[record.key] = daemons.node_of(record)
    for change in result.changes:
        if isinstance(change, CreateInstance) and change.record.only_node:
            result.only_node[change.record.key] = change.record.only_node
    if decision.rollout != state.rollouts.get((workload.namespace, workload.name)):
        result.changes.append(SetRollout(workload.namespace, workload.name, decision.rollout))
    result.wake(decision.wake_at)
