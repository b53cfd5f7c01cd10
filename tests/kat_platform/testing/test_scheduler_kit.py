"""The scheduler's kit passes a good scheduler and fails every scheduler that breaks one rule."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable
from dataclasses import replace

import pytest

from kat_platform.interfaces.driver import DriverInfo
from kat_platform.interfaces.scheduler import (
    Contributions,
    Demand,
    Explanation,
    Move,
    PendingInstance,
    PlacedInstance,
    Placement,
    PlacementPlan,
    SchedulableNode,
    Scheduler,
    SchedulingSnapshot,
    Unplaceable,
)
from kat_platform.testing.conformance.kit import Check
from kat_platform.testing.conformance.scheduler import KIT, subject
from kat_platform.testing.fakes.scheduler import FakeScheduler

Pending = tuple[PendingInstance, ...]


@pytest.mark.parametrize("check", KIT.checks, ids=lambda check: check.name)
async def test_the_fake_scheduler_keeps_the_contract(check: Check[Scheduler]) -> None:
    outcome = await KIT.run_one(check, subject(lambda context: FakeScheduler(None, context)))
    assert outcome.passed, f"{outcome.rule}: {outcome.failure}"


def blind_to_nodes(change: Callable[[SchedulableNode], SchedulableNode]) -> type[FakeScheduler]:
    """Make a scheduler that does not see something about nodes."""

    class Blind(FakeScheduler):
        def schedule(self, snapshot: SchedulingSnapshot, pending: Pending) -> PlacementPlan:
            return super().schedule(replace(snapshot, nodes=tuple(map(change, snapshot.nodes))), pending)

    return Blind


def blind_to_demands(change: Callable[[Demand], Demand]) -> type[FakeScheduler]:
    """Make a scheduler that does not see something about what the batch asks for."""

    class Blind(FakeScheduler):
        def schedule(self, snapshot: SchedulingSnapshot, pending: Pending) -> PlacementPlan:
            return super().schedule(snapshot, tuple(replace(who, demand=change(who.demand)) for who in pending))

    return Blind


def blind_to_the_placed(change: Callable[[PlacedInstance], PlacedInstance | None]) -> type[FakeScheduler]:
    """Make a scheduler that does not see something about what is placed already."""

    class Blind(FakeScheduler):
        def schedule(self, snapshot: SchedulingSnapshot, pending: Pending) -> PlacementPlan:
            seen = tuple(changed for placed in snapshot.placed if (changed := change(placed)) is not None)
            return super().schedule(replace(snapshot, placed=seen), pending)

    return Blind


def blind_to_pending(change: Callable[[PendingInstance], PendingInstance]) -> type[FakeScheduler]:
    """Make a scheduler that does not see something about the batch."""

    class Blind(FakeScheduler):
        def schedule(self, snapshot: SchedulingSnapshot, pending: Pending) -> PlacementPlan:
            return super().schedule(snapshot, tuple(map(change, pending)))

    return Blind


class AsksForAtLeastSomething(FakeScheduler):
    def schedule(self, snapshot: SchedulingSnapshot, pending: Pending) -> PlacementPlan:
        more = tuple(
            replace(who, demand=replace(who.demand, cpu_millicores=max(who.demand.cpu_millicores, 1)))
            for who in pending
        )
        return super().schedule(snapshot, more)


class NeedsCompanyFromTheStart(FakeScheduler):
    def schedule(self, snapshot: SchedulingSnapshot, pending: Pending) -> PlacementPlan:
        reasons = {node.name: "no such instance is there" for node in snapshot.nodes}
        alone = [who for who in pending if who.demand.affinity.required and not snapshot.placed]
        plan = super().schedule(snapshot, tuple(who for who in pending if who not in alone))
        return replace(plan, unplaceable=(*plan.unplaceable, *(Unplaceable(who.id, reasons, "alone") for who in alone)))


class TripsOverGhosts(FakeScheduler):
    def schedule(self, snapshot: SchedulingSnapshot, pending: Pending) -> PlacementPlan:
        known = {node.name: node for node in snapshot.nodes}
        assert all(known[placed.node] for placed in snapshot.placed)
        return super().schedule(snapshot, pending)


class IgnoresContributions(FakeScheduler):
    def schedule(self, snapshot: SchedulingSnapshot, pending: Pending) -> PlacementPlan:
        return super().schedule(replace(snapshot, contributions=Contributions()), pending)


class ForgetsItsOwnBatch(FakeScheduler):
    def schedule(self, snapshot: SchedulingSnapshot, pending: Pending) -> PlacementPlan:
        plans = [FakeScheduler.schedule(self, snapshot, (who,)) for who in pending]
        placed = itertools.chain.from_iterable(plan.placements for plan in plans)
        return PlacementPlan(tuple(placed), tuple(itertools.chain.from_iterable(plan.unplaceable for plan in plans)))


class LosesTheUnplaceable(FakeScheduler):
    def schedule(self, snapshot: SchedulingSnapshot, pending: Pending) -> PlacementPlan:
        return replace(super().schedule(snapshot, pending), unplaceable=())


class AnswersTwice(FakeScheduler):
    def schedule(self, snapshot: SchedulingSnapshot, pending: Pending) -> PlacementPlan:
        plan = super().schedule(snapshot, pending)
        return replace(plan, placements=(*plan.placements, *plan.placements[:1]))


class FirstComeFirstServed(FakeScheduler):
    def schedule(self, snapshot: SchedulingSnapshot, pending: Pending) -> PlacementPlan:
        alike = tuple(replace(who, demand=replace(who.demand, priority=0)) for who in pending)
        return super().schedule(snapshot, alike)


class CountsItsCalls(FakeScheduler):
    calls = 0

    def schedule(self, snapshot: SchedulingSnapshot, pending: Pending) -> PlacementPlan:
        self.calls += 1
        plan = super().schedule(snapshot, pending)
        return replace(plan, placements=tuple(replace(p, score=float(self.calls)) for p in plan.placements))


class WritesIntoItsInput(FakeScheduler):
    def schedule(self, snapshot: SchedulingSnapshot, pending: Pending) -> PlacementPlan:
        for node in snapshot.nodes:
            node.labels["seen"] = "yes"  # type: ignore[index]  # that is what is broken about it
        return super().schedule(snapshot, pending)


class NeedsAnEventLoop(FakeScheduler):
    def schedule(self, snapshot: SchedulingSnapshot, pending: Pending) -> PlacementPlan:
        asyncio.get_running_loop()
        return super().schedule(snapshot, pending)


class NamesOneNodeOnly(FakeScheduler):
    def schedule(self, snapshot: SchedulingSnapshot, pending: Pending) -> PlacementPlan:
        plan = super().schedule(snapshot, pending)
        short = [Unplaceable(u.instance_id, dict(list(u.reasons.items())[:1]), u.summary) for u in plan.unplaceable]
        return replace(plan, unplaceable=tuple(short))


class GivesUpEasily(FakeScheduler):
    def schedule(self, snapshot: SchedulingSnapshot, pending: Pending) -> PlacementPlan:
        plan = super().schedule(snapshot, pending)
        kept, given_up = plan.placements[:4], plan.placements[4:]
        reasons = {node.name: "no" for node in snapshot.nodes}
        more = tuple(Unplaceable(p.instance_id, reasons, "0 nodes fit") for p in given_up)
        return PlacementPlan(kept, plan.unplaceable + more)


class ExplainsWithoutLooking(FakeScheduler):
    def explain(self, snapshot: SchedulingSnapshot, pending: PendingInstance) -> Explanation:
        careless = replace(pending, demand=replace(pending.demand, cpu_millicores=0, memory_bytes=0))
        return super().explain(snapshot, careless)


class HasNoRemedy(FakeScheduler):
    def explain(self, snapshot: SchedulingSnapshot, pending: PendingInstance) -> Explanation:
        return replace(super().explain(snapshot, pending), remedy="")


class PreemptsItsEquals(FakeScheduler):
    info = DriverInfo("fake", "1.0.0", FakeScheduler.info.capability, capabilities={"preempts": True})

    def schedule(self, snapshot: SchedulingSnapshot, pending: Pending) -> PlacementPlan:
        plan = super().schedule(snapshot, pending)
        if plan.placements or not snapshot.placed or not snapshot.nodes:
            return plan
        here = [placed.id for placed in snapshot.placed if placed.node == snapshot.nodes[0].name]
        return PlacementPlan((Placement(pending[0].id, snapshot.nodes[0].name, tuple(here)),), plan.unplaceable[1:])


class SaysItPreempts(FakeScheduler):
    info = DriverInfo("fake", "1.0.0", FakeScheduler.info.capability, capabilities={"preempts": True})


class SaysItGoesByScores(FakeScheduler):
    info = DriverInfo("fake", "1.0.0", FakeScheduler.info.capability, capabilities={"scores": True})


class MovesTooMuch(FakeScheduler):
    def rebalance(self, snapshot: SchedulingSnapshot, *, max_moves: int) -> tuple[Move, ...]:
        return tuple(Move(placed.id, placed.node, snapshot.nodes[0].name) for placed in snapshot.placed)


class Raises(FakeScheduler):
    def schedule(self, snapshot: SchedulingSnapshot, pending: Pending) -> PlacementPlan:
        if not snapshot.nodes:
            raise ValueError("max() arg is an empty sequence")
        return super().schedule(snapshot, pending)


BROKEN: list[tuple[str, type[FakeScheduler], str]] = [
    ("readiness", blind_to_nodes(lambda node: replace(node, ready=True)), "readiness"),
    ("cordon", blind_to_nodes(lambda node: replace(node, cordoned=False)), "cordon"),
    ("taints", blind_to_nodes(lambda node: replace(node, taints=())), "taints"),
    ("slots", blind_to_nodes(lambda node: replace(node, max_instances=9999)), "slots"),
    ("overcommit", blind_to_nodes(lambda node: replace(node, cpu_millicores=10**9)), "capacity"),
    ("gpus in use", blind_to_nodes(lambda n: replace(n, gpus=tuple(replace(g, used_by=None) for g in n.gpus))), "gpus"),
    ("selector", blind_to_demands(lambda demand: replace(demand, node_selector={})), "selector"),
    ("tolerates too much", blind_to_demands(lambda demand: replace(demand, tolerations=())), "taints"),
    ("pins", blind_to_demands(lambda demand: replace(demand, pinned_to=None)), "pinned"),
    ("host ports", blind_to_demands(lambda demand: replace(demand, host_ports=())), "host_ports"),
    ("affinity", blind_to_demands(lambda d: replace(d, affinity=replace(d.affinity, required=()))), "affinity"),
    (
        "anti-affinity",
        blind_to_demands(lambda d: replace(d, anti_affinity=replace(d.anti_affinity, required=()))),
        "anti_affinity",
    ),
    (
        "anti-affinity of others",
        blind_to_the_placed(
            lambda p: replace(p, demand=replace(p.demand, anti_affinity=replace(p.demand.anti_affinity, required=())))
        ),
        "anti_affinity_of_others",
    ),
    ("spread", blind_to_demands(lambda demand: replace(demand, spread=None)), "spread"),
    (
        "namespaces",
        blind_to_the_placed(lambda placed: replace(placed, demand=replace(placed.demand, namespace="default"))),
        "namespaces",
    ),
    ("what is placed", blind_to_the_placed(lambda placed: None), "capacity"),
    ("contributions", IgnoresContributions, "contributed_filter"),
    ("its own batch", ForgetsItsOwnBatch, "capacity"),
    ("the unplaceable", LosesTheUnplaceable, "no_nodes"),
    ("twice", AnswersTwice, "readiness"),
    ("priority", FirstComeFirstServed, "priority"),
    ("state", CountsItsCalls, "determinism"),
    ("mutation", WritesIntoItsInput, "purity"),
    ("event loop", NeedsAnEventLoop, "empty_batch"),
    ("reasons", NamesOneNodeOnly, "selector"),
    ("giving up", GivesUpEasily, "random_clusters"),
    ("giving up, many", GivesUpEasily, "huge_batch"),
    ("explain", ExplainsWithoutLooking, "explanation"),
    ("remedy", HasNoRemedy, "explanation"),
    ("preempting equals", PreemptsItsEquals, "preemption"),
    ("not preempting", SaysItPreempts, "preemption"),
    ("not scoring", SaysItGoesByScores, "contributed_score"),
    ("moves", MovesTooMuch, "rebalancing"),
    ("raising", Raises, "no_nodes"),
    ("asking for nothing", AsksForAtLeastSomething, "asking_nothing"),
    ("daemons", blind_to_pending(lambda who: replace(who, only_node=None)), "only_node"),
    ("the first of its kind", NeedsCompanyFromTheStart, "first_of_its_kind"),
    ("spread over the placed", blind_to_the_placed(lambda placed: None), "spread_over_what_is_there"),
    ("nodes that are gone", TripsOverGhosts, "gone_nodes"),
    ("nodes to avoid", blind_to_pending(lambda who: replace(who, avoid=frozenset())), "avoid"),
]


@pytest.mark.parametrize(("broken", "caught_by"), [row[1:] for row in BROKEN], ids=[row[0] for row in BROKEN])
async def test_the_kit_fails_a_broken_scheduler(broken: type[FakeScheduler], caught_by: str) -> None:
    check = next(check for check in KIT.checks if check.name == caught_by)
    outcome = await KIT.run_one(check, subject(lambda context: broken(None, context)))
    assert not outcome.passed
    assert outcome.failure


def test_every_check_is_proven_by_a_broken_scheduler() -> None:
    assert {check.name for check in KIT.checks} == {row[2] for row in BROKEN}
