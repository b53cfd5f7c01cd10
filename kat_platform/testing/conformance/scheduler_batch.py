"""Checks of a batch as a whole: purity, order, preemption, explanations, size, and random clusters."""

from __future__ import annotations

import asyncio
import copy
import time

from kat_platform.interfaces.scheduler import (
    Explanation,
    PendingInstance,
    PlacedInstance,
    Rebalances,
    Scheduler,
    SchedulingSnapshot,
)
from kat_platform.testing.conformance.kit import Kit, require
from kat_platform.testing.conformance.scheduler_random import broken_rules, left_out, random_scene
from kat_platform.testing.conformance.scheduler_scenes import MEBI, cluster, demand, node, planned, several, where

BATCH: Kit[Scheduler] = Kit("scheduler")


@BATCH.check("the same input gives the same plan, whatever was asked in between")
async def determinism(driver: Scheduler) -> None:
    """See the rule."""
    for seed in range(4):
        snapshot, pending = random_scene(seed)
        first = await planned(driver, snapshot, pending)
        await planned(driver, *random_scene(seed + 100))
        again = await planned(driver, snapshot, pending)
        require(first == again, "the same snapshot and batch gave another plan the second time")


@BATCH.check("the snapshot and the batch are left as they were")
async def purity(driver: Scheduler) -> None:
    """See the rule."""
    snapshot, pending = random_scene(5)
    before = copy.deepcopy((snapshot, pending))
    await planned(driver, snapshot, pending)
    await asyncio.to_thread(driver.explain, snapshot, pending[0])
    require((snapshot, pending) == before, "schedule or explain changed what it was given")


@BATCH.check("an empty batch gives an empty plan")
async def empty_batch(driver: Scheduler) -> None:
    """See the rule."""
    for nodes in ((), (node("a"),)):
        plan = await planned(driver, cluster(*nodes), ())
        require(not plan.placements and not plan.unplaceable, "an empty batch was answered with something")


@BATCH.check("without nodes everything is unplaceable, and a summary says so")
async def no_nodes(driver: Scheduler) -> None:
    """See the rule."""
    plan = await planned(driver, cluster(), several(3, demand()))
    require(len(plan.unplaceable) == 3, f"{len(plan.unplaceable)} of 3 unplaceable in a cluster without nodes")
    require(all(answer.summary for answer in plan.unplaceable), "no summary says that there are no nodes")
    answer = await asyncio.to_thread(driver.explain, cluster(), several(1, demand())[0])
    require(not answer.verdicts and answer.remedy, "explain without nodes has no remedy")


@BATCH.check("instances on nodes that are gone are no obstacle")
async def gone_nodes(driver: Scheduler) -> None:
    """See the rule."""
    ghost = PlacedInstance("ghost", demand("ghost", cpu_millicores=4000), "gone")
    plan = await planned(driver, cluster(node("a"), placed=(ghost,)), several(1, demand()))
    require(where(plan) == {"web-0": "a"}, "an instance on a node that is gone kept another from its place")


@BATCH.check("when there is not room for all, the highest priority goes first, wherever it stands in the batch")
async def priority(driver: Scheduler) -> None:
    """See the rule."""
    low, mid, high = (demand(f"p{p}", priority=p, cpu_millicores=2000) for p in (-5, 0, 7))
    pending = (*several(1, low), *several(1, mid), *several(1, high))
    plan = await planned(driver, cluster(node("a")), pending)
    require(set(where(plan)) == {"p0-0", "p7-0"}, f"room for two, and {sorted(where(plan))} were placed")


@BATCH.check("nodes an instance should avoid come last, but do come")
async def avoid(driver: Scheduler) -> None:
    """See the rule."""
    nodes = cluster(node("a", cpu_millicores=1000), node("b", cpu_millicores=1000))
    plan = await planned(driver, nodes, several(3, demand(), avoid=frozenset({"a"})))
    found = sorted(where(plan).values())
    require(found == ["a", "b", "b"], f"to avoid a, with room for two on each, went to {found}")


@BATCH.check("only what has lower priority is preempted, only when nothing fits, and no more than needed")
async def preemption(driver: Scheduler) -> None:
    """See the rule. A scheduler need not preempt; one that says ``preempts`` must."""
    preempts = bool(driver.info.capabilities.get("preempts", False))
    old = tuple(
        PlacedInstance(f"p{p}-{n}", demand(f"p{p}", priority=p, cpu_millicores=1000), n)
        for n in "ab"
        for p in (0, 1, 5, 9)
    )
    full = cluster(node("a"), node("b"), placed=old)
    urgent = demand("urgent", priority=5, cpu_millicores=2000)
    plan = await planned(driver, full, several(1, urgent))
    if not preempts:
        require(not plan.placements, "a scheduler that does not say it preempts did")
        return
    require(len(plan.placements) == 1, "nothing fits, two of lower priority are in the way, and it was not placed")
    victims = sorted(victim.split("-")[0] for victim in plan.placements[0].preempts)
    require(victims == ["p0", "p1"], f"preempted {victims}, where p0 and p1 are enough and least important")
    equal = await planned(driver, full, several(1, demand("meek", priority=0, cpu_millicores=1000)))
    require(not equal.placements, "an instance took the place of one that is as important")
    roomy = await planned(driver, cluster(*full.nodes, node("c"), placed=old), several(1, urgent))
    require(where(roomy) == {"urgent-0": "c"}, "an instance was preempted though another node had room")


@BATCH.check("explain says what schedule does: the node chosen passes every filter, and who fits nowhere fails on each")
async def explanation(driver: Scheduler) -> None:
    """See the rule."""
    for seed in range(6):
        snapshot, pending = random_scene(seed, relations=seed % 2 == 0)
        for who in pending[:6]:
            told = await asyncio.to_thread(driver.explain, snapshot, who)
            plan = await planned(driver, snapshot, (who,))
            _agree(snapshot, who, told, where(plan).get(who.id), preempted=any(p.preempts for p in plan.placements))


def _agree(
    snapshot: SchedulingSnapshot, who: PendingInstance, told: Explanation, chosen: str | None, preempted: bool
) -> None:
    names = {node.name for node in snapshot.nodes}
    failing = {verdict.node for verdict in told.verdicts if not verdict.passed}
    require({verdict.node for verdict in told.verdicts} == names, "explain does not speak of every node")
    require(set(told.scores) == names - failing, "explain scores other nodes than those that pass")
    if preempted:
        require(failing == names, f"{who.id} preempts, though explain says that {sorted(names - failing)} would do")
    elif chosen is None:
        require(failing == names, f"{who.id} fits nowhere, but explain says {sorted(names - failing)} would do")
        require(told.remedy, f"{who.id} fits nowhere, and explain has no remedy")
    else:
        require(chosen not in failing, f"{who.id} was placed on {chosen}, against which explain has a reason")


@BATCH.check("random clusters: no rule is broken in the end, and nothing plain is left out that fits")
async def random_clusters(driver: Scheduler) -> None:
    """See the rule. The judge is ``kat_platform.testing.placement``."""
    for seed in range(30):
        snapshot, pending = random_scene(seed)
        plan = await planned(driver, snapshot, pending)
        broken = broken_rules(snapshot, pending, plan)
        require(not broken, f"random cluster {seed}: {'; '.join(broken[:3])}")
        missed = left_out(snapshot, pending, plan)
        require(not missed, f"random cluster {seed}: left out though a node would do: {'; '.join(missed[:3])}")


@BATCH.check("1,000 instances onto 200 nodes within 30 s", timeout=120)
async def huge_batch(driver: Scheduler) -> None:
    """See the rule."""
    nodes = tuple(node(f"n{i:03}", labels={"zone": f"z{i % 3}"}) for i in range(200))
    kinds = [demand(f"w{i}", cpu_millicores=100 + 10 * i, memory_bytes=(64 + i) * MEBI) for i in range(50)]
    pending = tuple(PendingInstance(f"i{n}", kinds[n % 50]) for n in range(1000))
    begun = time.monotonic()
    plan = await planned(driver, cluster(*nodes), pending)
    taken = time.monotonic() - begun
    require(len(plan.placements) == 1000, f"{len(plan.placements)} of 1000 placed, there is room for all")
    require(taken < 30, f"it took {taken:.1f} s")


@BATCH.check("suggested moves are few enough, move what may be moved, and lead to nodes that take it")
async def rebalancing(driver: Scheduler) -> None:
    """See the rule; only for schedulers that suggest moves."""
    if not isinstance(driver, Rebalances):
        return
    placed = tuple(PlacedInstance(f"i-{n}", demand(f"w{n}"), n) for n in "abcd")
    fixed = PlacedInstance("daemon", demand("daemon"), "d", movable=False)
    nodes = cluster(*(node(n) for n in "abcd"), placed=(*placed, fixed))
    for most in (0, 1, 2, 10):
        moves = await asyncio.to_thread(driver.rebalance, nodes, max_moves=most)
        require(len(moves) <= most, f"{len(moves)} moves suggested, at most {most} asked for")
        at = {instance.id: instance.node for instance in nodes.placed}
        for move in moves:
            require(at.get(move.instance_id) == move.source != move.target, f"{move} is not a move of what is there")
            require(move.instance_id != "daemon", "an instance that is not movable was to be moved")
            require(move.target in {n.name for n in nodes.nodes}, f"{move} leads to no node")
