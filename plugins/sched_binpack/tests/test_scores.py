"""Where instances go when several nodes would do, and how tightly a batch is packed."""

from __future__ import annotations

import math
import random
from collections import Counter
from dataclasses import replace

import pytest
from kat_sched_binpack.driver import BinpackScheduler

from kat_platform.interfaces.scheduler import (
    Affinity,
    AffinityTerm,
    Contributions,
    Demand,
    PendingInstance,
    PlacedInstance,
    SchedulableNode,
    Scheduler,
    SchedulingSnapshot,
    Taint,
    TaintEffect,
)
from kat_platform.testing.conformance.scheduler_scenes import MEBI, cluster, demand, node, several, where


def chosen(driver: BinpackScheduler, snapshot: SchedulingSnapshot, asked: Demand) -> str:
    return where(driver.schedule(snapshot, several(1, asked)))[f"{asked.workload}-0"]


def test_the_fullest_node_that_fits_is_taken(binpack: BinpackScheduler) -> None:
    old = (PlacedInstance("1", demand("x", cpu_millicores=1000), "b"), PlacedInstance("2", demand("y"), "c"))
    assert chosen(binpack, cluster(node("a"), node("b"), node("c"), placed=old), demand()) == "b"


def test_equals_are_told_apart_by_name(binpack: BinpackScheduler) -> None:
    assert chosen(binpack, cluster(node("c"), node("a"), node("b")), demand()) == "a"


def test_replicas_of_a_small_cluster_are_spread(binpack: BinpackScheduler) -> None:
    plan = binpack.schedule(cluster(*(node(n) for n in "abc")), several(6, demand()))
    assert Counter(where(plan).values()) == {"a": 2, "b": 2, "c": 2}


def test_different_workloads_are_packed(binpack: BinpackScheduler) -> None:
    pending = tuple(several(1, demand(f"w{i}"))[0] for i in range(6))
    assert set(where(binpack.schedule(cluster(*(node(n) for n in "abc")), pending)).values()) == {"a"}


def test_the_image_decides_among_equals(binpack: BinpackScheduler) -> None:
    nodes = cluster(node("a"), node("b", images=frozenset({"web:1"})))
    assert chosen(binpack, nodes, demand(image="web:1")) == "b"


def test_prefer_no_schedule_is_avoided_while_it_can_be(binpack: BinpackScheduler) -> None:
    soft = node("a", taints=(Taint("t", effect=TaintEffect.PREFER_NO_SCHEDULE),))
    assert chosen(binpack, cluster(soft, node("b")), demand()) == "b"
    assert chosen(binpack, cluster(soft), demand()) == "a"


@pytest.mark.parametrize(("towards", "expected"), [(True, "c"), (False, "b")])
def test_preferred_rules_are_weighed(binpack: BinpackScheduler, towards: bool, expected: str) -> None:
    old = tuple(PlacedInstance(n, demand("db", cpu_millicores=100), n) for n in "ac")
    nodes = cluster(node("a", cordoned=True), node("b"), node("c"), placed=old)
    wish = Affinity(preferred=(AffinityTerm({"app": "db"}, "", 50),))
    asked = demand(affinity=wish) if towards else demand(anti_affinity=wish)
    assert chosen(binpack, nodes, asked) == expected


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -5.0, 1e300])
def test_an_unruly_contributed_score_harms_nobody(binpack: BinpackScheduler, value: float) -> None:
    unruly = Contributions(scores=(("unruly", 1.0, lambda asked, at: value),))
    assert chosen(binpack, cluster(node("a"), contributions=unruly), demand()) == "a"


def test_company_placed_later_in_the_batch_is_found(binpack: BinpackScheduler) -> None:
    follower = demand("big", cpu_millicores=3000, affinity=Affinity(required=(AffinityTerm({"app": "web"}),)))
    plan = binpack.schedule(cluster(node("a")), (*several(1, follower), *several(1, demand())))
    assert where(plan) == {"big-0": "a", "web-0": "a"}


def uniform(chance: random.Random) -> tuple[int, int]:
    return chance.randrange(100, 4001, 50), chance.randrange(128, 16385, 64)


def skewed(chance: random.Random) -> tuple[int, int]:
    if chance.random() < 0.8:
        return chance.randrange(50, 501, 50), chance.randrange(64, 1025, 64)
    return chance.randrange(500, 6001, 100), chance.randrange(1024, 16385, 256)


def mixed(chance: random.Random) -> tuple[int, int]:
    return chance.choice((100, 250, 500, 1000, 2000)), chance.choice((128, 256, 512, 1024, 2048, 4096, 8192))


@pytest.mark.parametrize("shape", [uniform, skewed, mixed])
@pytest.mark.parametrize("replicas", [1, 10])
def test_packing_is_within_a_few_percent_of_the_lower_bound(binpack: Scheduler, shape: object, replicas: int) -> None:
    assert callable(shape)
    chance = random.Random(7)
    pending: list[PendingInstance] = []
    for w in range(4000 // replicas):
        cpu, memory = shape(chance)
        kind = Demand(f"d{w}", "default", f"w{w}", {}, cpu, memory * MEBI)
        pending += [PendingInstance(f"{w}-{i}", kind) for i in range(replicas)]
    nodes = tuple(SchedulableNode(f"n{i:04}", 16_000, 65_536 * MEBI, 1000) for i in range(1500))
    plan = binpack.schedule(SchedulingSnapshot(1, nodes), tuple(pending))
    assert not plan.unplaceable
    cpu = sum(p.demand.cpu_millicores for p in pending) / 16_000
    memory = sum(p.demand.memory_bytes for p in pending) / (65_536 * MEBI)
    assert len(set(where(plan).values())) <= 1.045 * math.ceil(max(cpu, memory))


def test_moves_empty_the_emptiest_node(binpack: BinpackScheduler) -> None:
    load = {"a": 3000, "b": 500, "c": 2000}
    placed = tuple(PlacedInstance(n, demand(f"w{n}", cpu_millicores=c), n) for n, c in load.items())
    nodes = cluster(node("a"), node("b"), node("c"), placed=placed)
    moves = binpack.rebalance(nodes, max_moves=5)
    assert [(m.instance_id, m.source, m.target) for m in moves] == [("b", "b", "a")]
    assert binpack.rebalance(nodes, max_moves=0) == ()
    fixed = replace(nodes, placed=tuple(replace(p, movable=False) for p in placed))
    assert binpack.rebalance(fixed, max_moves=5) == ()
