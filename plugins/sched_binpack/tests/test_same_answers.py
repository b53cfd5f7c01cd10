"""The plain search, the vector search and the words of the filters all say the same."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st
from kat_sched_binpack.config import BinpackConfig
from kat_sched_binpack.driver import BinpackScheduler
from kat_sched_binpack.feasible import Request, first_against
from kat_sched_binpack.fleet import Fleet

from kat_platform.interfaces.driver import DriverContext
from kat_platform.interfaces.scheduler import Contributions, PendingInstance, PlacementPlan, SchedulingSnapshot
from kat_platform.testing.conformance.scheduler_random import broken_rules, left_out, random_scene
from kat_platform.testing.conformance.scheduler_scenes import demand, node
from kat_platform.testing.placement import against

NOWHERE = DriverContext("n1", Path("/nonexistent"), Path("/nonexistent"), "kt1")
SEEDS = st.integers(0, 2**32)


def plan(
    snapshot: SchedulingSnapshot, pending: tuple[PendingInstance, ...], vector_nodes: int, even_nodes: int = 8
) -> PlacementPlan:
    config = BinpackConfig(vector_nodes=vector_nodes, even_nodes=even_nodes)
    return BinpackScheduler(config, NOWHERE).schedule(snapshot, pending)


def prioritised(pending: tuple[PendingInstance, ...], top: int) -> tuple[PendingInstance, ...]:
    """Give some of the batch a priority above what is placed, so that there is preemption."""
    return tuple(
        replace(who, demand=replace(who.demand, key=f"{who.demand.key}+{rank}", priority=rank))
        for n, who in enumerate(pending)
        for rank in [n % (top + 1)]
    )


@settings(max_examples=150, deadline=None)
@given(SEEDS, st.integers(0, 3))
def test_vectors_and_plain_python_give_the_same_plan(seed: int, top: int) -> None:
    snapshot, pending = random_scene(seed, nodes=12, pending=40)
    pending = prioritised(pending, top)
    odd = Contributions(
        filters=(("odd", lambda asked, at: "is odd" if (len(asked.key) + len(at.labels)) % 5 == 0 else None),),
        scores=(("liked", 0.3, lambda asked, at: float(len(at.images) * 37 % 101)),),
    )
    if seed % 3 == 0:
        snapshot = replace(snapshot, contributions=odd)
    even_nodes = 1 + seed % 4
    assert plan(snapshot, pending, 10**6, even_nodes) == plan(snapshot, pending, 0, even_nodes)


@settings(max_examples=100, deadline=None)
@given(SEEDS)
def test_no_rule_is_broken_and_nothing_that_fits_is_left_out(seed: int) -> None:
    snapshot, pending = random_scene(seed)
    answer = plan(snapshot, pending, 300, 1 + seed % 4)
    assert broken_rules(snapshot, pending, answer) == []
    assert left_out(snapshot, pending, answer) == []


@settings(max_examples=100, deadline=None)
@given(SEEDS)
def test_the_quick_answer_the_words_and_the_plain_rules_agree(seed: int) -> None:
    snapshot, pending = random_scene(seed)
    for who in pending[:5]:
        request = Request.of(Fleet(snapshot), who)
        for i, at in enumerate(request.fleet.nodes):
            told = first_against(request, i)
            assert request.fits(i) == (told is None), (who, at, told)
            assert request.fits(i) == (against(snapshot, snapshot.placed, who, at.name) == ""), (who, at, told)


@settings(max_examples=50, deadline=None)
@given(SEEDS)
def test_taking_away_undoes_adding(seed: int) -> None:
    snapshot, pending = random_scene(seed)
    fleet = Fleet(snapshot)
    requests = [Request.of(fleet, who) for who in pending]
    before = [[request.fits(i) for i in range(len(fleet.nodes))] for request in requests]
    for n, who in enumerate(pending):
        fleet.add(who.id, who.demand, n % len(fleet.nodes))
    for n, who in enumerate(pending):
        fleet.remove(who.id, who.demand, n % len(fleet.nodes))
    again = [Request.of(fleet, who) for who in pending]
    assert [[request.fits(i) for i in range(len(fleet.nodes))] for request in again] == before


def test_amounts_too_large_for_a_float_are_left_to_plain_python() -> None:
    vast = 2**62 + 1
    snapshot = SchedulingSnapshot(1, (node("a", memory_bytes=vast - 1), node("b", memory_bytes=vast)))
    who = (PendingInstance("i", demand(memory_bytes=vast)),)
    assert [p.node for p in plan(snapshot, who, 0).placements] == ["b"]


def test_a_small_cluster_does_not_load_numpy() -> None:
    script = (
        "import sys; from pathlib import Path; from kat_sched_binpack.driver import BinpackScheduler as S;"
        "from kat_platform.interfaces.driver import DriverContext as C;"
        "from kat_platform.interfaces.scheduler import SchedulingSnapshot as P, SchedulableNode as N, Demand as D;"
        "from kat_platform.interfaces.scheduler import PendingInstance as I;"
        "driver = S(None, C('n', Path('.'), Path('.'), 't'));"
        "plan = driver.schedule(P(1, (N('a', 1, 1),)), (I('i', D('k', 'n', 'w')),));"
        "assert plan.placements; sys.exit('numpy' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", script], timeout=60).returncode == 0
