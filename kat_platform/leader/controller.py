"""Controller: the leader's loop. State in, pure decisions, fenced writes out, and again when something changed."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Final

import structlog

from kat_platform.errors import Conflict, KatError, LeadershipLost
from kat_platform.interfaces.scheduler import (
    Contributions,
    PendingInstance,
    PlacementPlan,
    Scheduler,
    SchedulingSnapshot,
)
from kat_platform.interfaces.store import Leadership, Store
from kat_platform.leader import narrate
from kat_platform.leader.changes import CreateInstance, LeaderChange, PinVolume, UpdateInstance
from kat_platform.leader.commit import commit
from kat_platform.leader.placement import pending_instances, scheduling_snapshot, storage_volumes
from kat_platform.leader.reconcile import Reconciliation, reconcile
from kat_platform.leader.verify_plan import verify
from kat_platform.model.event import Event
from kat_platform.model.instance import Desired, InstanceRecord
from kat_platform.observability.metrics import Metrics
from kat_platform.state.cache import StateCache
from kat_platform.state.cluster import ClusterState
from kat_platform.state.events import EventRecorder

log = structlog.get_logger(__name__)

SETTLE: Final = 0.003
"""Seconds to wait after a change for more of the same burst, so that one pass covers them."""

IN_THREAD: Final = 64
"""Pending instances from which on the scheduler runs in a thread: below, the hop costs more than it saves."""


class Controller:
    """Leads: reconciles and places until leadership ends. One object per term of office."""

    def __init__(
        self,
        store: Store,
        cache: StateCache,
        scheduler: Scheduler,
        recorder: EventRecorder,
        *,
        metrics: Metrics | None = None,
        contributions: Callable[[], Contributions] = Contributions,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._store, self._cache, self._scheduler, self._recorder = store, cache, scheduler, recorder
        self._contributions, self._clock = contributions, clock
        self._metrics = metrics or Metrics()
        self._wake = asyncio.Event()
        self._seen_plan_faults: frozenset[str] = frozenset()

    async def lead(self, leadership: Leadership) -> None:
        """Run until leadership is lost (then return) or cancelled."""
        began = self._clock()
        await self._cache.reached(leadership.revision)
        stop = self._cache.subscribe(lambda _state, _changes: self._wake.set())
        try:
            while True:
                self._wake.clear()
                started = time.perf_counter()
                wake_at = await self._pass(leadership, began)
                self._metrics.observe("kat_leader_round_seconds", time.perf_counter() - started)
                await self._sleep(wake_at)
        except LeadershipLost as lost:
            log.warning("leadership lost", reason=str(lost))
        finally:
            stop()

    async def _sleep(self, wake_at: float | None) -> None:
        timeout = None if wake_at is None else max(0.01, wake_at - self._clock())
        try:
            async with asyncio.timeout(timeout):
                await self._wake.wait()
                await asyncio.sleep(SETTLE)
        except TimeoutError:
            pass

    async def _pass(self, leadership: Leadership, began: float) -> float | None:
        state, now = self._cache.state, self._clock()
        grace_ends = began + self._grace(state)
        result = reconcile(state, now=now, judge_loss=now >= grace_ends)
        if now < grace_ends:
            result.wake(grace_ends + 0.1)
        changes, events = await self._place(state, result, now)
        events += narrate.events_for(state, changes, now=now)
        if changes:
            try:
                revision = await commit(self._store, leadership, state, changes, now=now)
            except LeadershipLost:
                raise
            except Conflict as conflict:
                self._metrics.count("kat_leader_conflicts_total")
                log.info("decided on an old state", reason=str(conflict))
                return now + 0.02
            except KatError as error:  # the store is away or full: nothing was written, or it is seen on the next pass
                log.warning("changes not written", error=str(error), code=error.code)
                return now + (0.5 if error.retryable else 2.0)
            for change in changes:
                log.info("change", what=str(change), term=leadership.revision, revision=revision)
                self._metrics.count("kat_leader_changes_total", type(change).__name__)
            await self._cache.reached(revision)
        for event in events:
            await self._record(event)
        return result.wake_at

    async def _record(self, event: Event) -> None:
        try:
            await self._recorder.record(event)
        except KatError as error:  # an event that cannot be written must not stop the work it speaks of
            log.warning("event not recorded", reason=event.reason, error=str(error))

    @staticmethod
    def _grace(state: ClusterState) -> float:
        return state.configuration.spec.node_loss_timeout_seconds if state.configuration is not None else 8.0

    async def _place(
        self, state: ClusterState, result: Reconciliation, now: float
    ) -> tuple[list[LeaderChange], list[Event]]:
        """Give every change of this pass, with nodes for whatever the scheduler found one for."""
        waiting = _waiting(state, result)
        if not waiting:
            return result.changes, []
        queue = pending_instances(state, waiting.values(), result.only_node)
        snapshot = scheduling_snapshot(state, self._contributions())
        plan, faults = await self._ask(snapshot, queue)
        if faults:
            return result.changes, self._refuse(faults, now)
        self._seen_plan_faults = frozenset()
        return _apply(state, result.changes, waiting, plan, now), []

    async def _ask(
        self, snapshot: SchedulingSnapshot, queue: tuple[PendingInstance, ...]
    ) -> tuple[PlacementPlan, list[str]]:
        """Ask the scheduler, and check its plan; a plugin that breaks places nothing and harms nothing else."""
        started = time.perf_counter()
        try:
            if len(queue) < IN_THREAD:
                plan = self._scheduler.schedule(snapshot, queue)
            else:
                plan = await asyncio.to_thread(self._scheduler.schedule, snapshot, queue)
            faults = verify(snapshot, queue, plan)
        except Exception as error:  # a stranger's code may raise anything: it is told as that plugin's fault
            log.exception("scheduler failed", scheduler=self._scheduler.info.name)
            return PlacementPlan(), [f"it raised {type(error).__name__}: {error}"]
        self._metrics.observe("kat_scheduler_seconds", time.perf_counter() - started)
        self._metrics.count("kat_scheduler_placed_total", by=len(plan.placements))
        self._metrics.gauge("kat_scheduler_unplaceable", len(plan.unplaceable))
        return plan, faults

    def _refuse(self, faults: list[str], now: float) -> list[Event]:
        """Place nothing of a plan that breaks a rule, and say whose fault it is, once."""
        name = self._scheduler.info.name
        seen = frozenset(faults)
        if seen == self._seen_plan_faults:
            return []
        self._seen_plan_faults = seen
        log.error("plan refused", scheduler=name, faults=faults[:5])
        return [narrate.plan_refused(name, faults, now=now)]


def _waiting(state: ClusterState, result: Reconciliation) -> dict[str, InstanceRecord]:
    """Give the instances that need a node: pending ones not being stopped now, and new ones.

    Of a workload whose data has no place yet only one goes ahead: the others follow it to where the data then is. One
    that
    made others stop waits until they are gone.
    """
    updated = {c.record.key: c.record for c in result.changes if isinstance(c, UpdateInstance)}
    evicting = {r.stop_reason.removeprefix("preempted by ") for r in state.instances.values() if r.stop_reason}
    found = {}
    for record in state.instances.values():
        record = updated.get(record.key, record)
        if record.node is None and record.desired is Desired.RUN and record.key not in evicting:
            found[record.key] = record
    for change in result.changes:
        if isinstance(change, CreateInstance):
            found[change.record.key] = change.record
    first_of: set[tuple[str, str]] = set()
    for key, record in sorted(found.items(), key=lambda item: (item[1].created_at, item[0])):
        revision = state.revisions.get((record.namespace, record.workload, record.revision))
        unpinned = revision is not None and any(
            (record.namespace, record.workload, volume) not in state.pins for volume in storage_volumes(revision)
        )
        if unpinned and (record.namespace, record.workload) in first_of:
            del found[key]
        elif unpinned:
            first_of.add((record.namespace, record.workload))
    return found


def _apply(
    state: ClusterState,
    changes: list[LeaderChange],
    waiting: dict[str, InstanceRecord],
    plan: PlacementPlan,
    now: float,
) -> list[LeaderChange]:
    """Put the plan's nodes and reasons into the records, and pins and preemptions beside them."""
    placed: dict[str, InstanceRecord] = {}
    extra: list[LeaderChange] = []
    for placement in plan.placements:
        record = waiting[placement.instance_id]
        if placement.preempts:
            extra.extend(_preempt(state, placement.preempts, record, now))
            continue
        placed[record.key] = record.model_copy(update={"node": placement.node, "unplaceable": ""})
        extra.extend(_pins(state, record, placement.node))
    for unplaceable in plan.unplaceable:
        record = waiting[unplaceable.instance_id]
        if record.unplaceable != unplaceable.summary:
            placed[record.key] = record.model_copy(update={"unplaceable": unplaceable.summary})
    merged: list[LeaderChange] = []
    for change in changes:
        if isinstance(change, CreateInstance | UpdateInstance) and change.record.key in placed:
            change = replace(change, record=placed.pop(change.record.key))
        merged.append(change)
    for record in placed.values():
        why = f"assigned to {record.node}" if record.node else f"no node: {record.unplaceable}"
        merged.append(UpdateInstance(record, why))
    return merged + extra


def _pins(state: ClusterState, record: InstanceRecord, node: str) -> list[LeaderChange]:
    revision = state.revisions.get((record.namespace, record.workload, record.revision))
    volumes = storage_volumes(revision) if revision is not None else ()
    return [
        PinVolume(record.namespace, record.workload, volume, node)
        for volume in volumes
        if (record.namespace, record.workload, volume) not in state.pins
    ]


def _preempt(state: ClusterState, victims: tuple[str, ...], winner: InstanceRecord, now: float) -> list[LeaderChange]:
    stops: list[LeaderChange] = []
    for key in victims:
        namespace, _, identity = key.partition("/")
        record = state.instances.get((namespace, identity))
        if record is not None and record.desired is Desired.RUN:
            update = {"desired": Desired.STOP, "stop_at": now, "stop_reason": f"preempted by {winner.key}"}
            stops.append(UpdateInstance(record.model_copy(update=update), f"preempted by {winner.key}"))
    return stops
