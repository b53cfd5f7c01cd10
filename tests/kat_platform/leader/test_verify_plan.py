"""A plan that keeps the rules is let through, and each way of breaking one is told in words."""

from __future__ import annotations

import time
from dataclasses import replace

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from kat_platform.interfaces.scheduler import (
    Gpu,
    GpuRequest,
    PendingInstance,
    PlacedInstance,
    Placement,
    PlacementPlan,
    SchedulableNode,
    SchedulingSnapshot,
    Taint,
    TaintEffect,
    Toleration,
    Unplaceable,
)
from kat_platform.leader.verify_plan import verify
from kat_platform.testing.conformance.scheduler_random import random_scene
from kat_platform.testing.conformance.scheduler_scenes import MEBI, demand, node
from kat_platform.testing.fakes.scheduler import FakeScheduler

WHO = PendingInstance("i", demand())


def check(
    at: SchedulableNode | None, who: PendingInstance = WHO, *, placed: tuple[PlacedInstance, ...] = (), **more: object
) -> list[str]:
    """Verify the plan that puts ``who`` on node ``a``."""
    snapshot = SchedulingSnapshot(1, (at,) if at is not None else (), placed)
    return verify(snapshot, (who,), PlacementPlan((replace(Placement(who.id, "a"), **more),)))  # type: ignore[arg-type]


def test_a_good_plan_has_no_faults() -> None:
    assert check(node("a")) == []
    assert verify(SchedulingSnapshot(1, ()), (WHO,), PlacementPlan((), (Unplaceable("i", {}, "no nodes"),))) == []
    assert verify(SchedulingSnapshot(1, ()), (), PlacementPlan()) == []


@pytest.mark.parametrize(
    ("at", "who", "fault"),
    [
        (None, WHO, "instance i: node a does not exist"),
        (node("a", ready=False), WHO, "instance i: node a is not ready"),
        (node("a", cordoned=True), WHO, "instance i: node a is cordoned"),
        (node("a", taints=(Taint("t"),)), WHO, "instance i: node a has taint t, which is not tolerated"),
        (node("a"), replace(WHO, only_node="b"), "instance i: belongs on node b, not on a"),
        (node("a"), replace(WHO, demand=demand(pinned_to="b")), "instance i: is pinned to node b, not to a"),
        (node("a"), replace(WHO, demand=demand(node_selector={"x": "y"})), "instance i: node a lacks label x=y"),
        (node("a", cpu_millicores=499), WHO, "node a: 500m cpu would be used of 499m allocatable"),
        (node("a", memory_bytes=1), WHO, f"node a: {512 * MEBI} bytes of memory would be used of 1 allocatable"),
        (node("a", max_instances=0), WHO, "node a: 1 instances would run, 0 may"),
    ],
)
def test_each_fault_is_told(at: SchedulableNode | None, who: PendingInstance, fault: str) -> None:
    assert check(at, who) == [fault]


def test_soft_and_tolerated_taints_are_no_fault() -> None:
    assert check(node("a", taints=(Taint("t", effect=TaintEffect.PREFER_NO_SCHEDULE),))) == []
    tolerant = replace(WHO, demand=demand(tolerations=(Toleration("t", "Exists"),)))
    assert check(node("a", taints=(Taint("t"),)), tolerant) == []


def test_each_instance_is_answered_exactly_once() -> None:
    snapshot = SchedulingSnapshot(1, (node("a"),))
    both = PlacementPlan((Placement("i", "a"),), (Unplaceable("i", {}, "no"),))
    assert verify(snapshot, (WHO,), both) == ["instance i: answered 2 times"]
    assert verify(snapshot, (WHO,), PlacementPlan()) == ["instance i: was not answered"]
    assert verify(snapshot, (), PlacementPlan((Placement("i", "a"),))) == ["instance i: was not asked for"]


def test_what_is_placed_counts_and_what_is_preempted_does_not() -> None:
    old = PlacedInstance("old", demand("old", cpu_millicores=4000, priority=-1), "a")
    assert check(node("a"), placed=(old,)) == ["node a: 4500m cpu would be used of 4000m allocatable"]
    assert check(node("a"), placed=(old,), preempts=("old",)) == []


def test_an_overcommitted_node_takes_what_asks_for_nothing() -> None:
    old = PlacedInstance("old", demand("old", cpu_millicores=9000), "a")
    assert check(node("a"), replace(WHO, demand=demand(cpu_millicores=0)), placed=(old,)) == []


def test_preemption_needs_lower_priority_on_the_same_node_and_happens_once() -> None:
    equal = PlacedInstance("old", demand("old"), "a")
    faults = check(node("a"), placed=(equal,), preempts=("old",))
    assert faults == ["instance i: preempts old, whose priority is not lower"]
    elsewhere = replace(equal, node="b")
    assert "not placed on a" in check(node("a"), placed=(elsewhere,), preempts=("old",))[0]
    assert "not placed on a" in check(node("a"), preempts=("ghost",))[0]
    low = PlacedInstance("old", demand("old", priority=-1), "a")
    assert "preempted already" in check(node("a"), placed=(low,), preempts=("old", "old"))[0]


def test_host_ports_and_gpus_are_counted() -> None:
    web = replace(WHO, demand=demand(host_ports=((80, "TCP"),)))
    old = PlacedInstance("old", demand("old", host_ports=((80, "TCP"),)), "a")
    assert check(node("a"), web, placed=(old,)) == ["node a: host port 80/TCP would be bound 2 times"]
    asks = replace(WHO, demand=demand(gpu=GpuRequest(1, "nvidia")))
    cards = (Gpu("0", "nvidia", 8000, "old"), Gpu("1", "amd", 8000))
    assert check(node("a", gpus=cards), asks) == ["node a: its GPUs do not suffice for the instances that ask for them"]
    assert check(node("a", gpus=(*cards, Gpu("2", "nvidia", 8000))), asks) == []


def test_gpus_are_matched_whatever_the_order() -> None:
    cards = (Gpu("0", "nvidia", 8000), Gpu("1", "amd", 8000))
    picky = PlacedInstance("picky", demand("p", gpu=GpuRequest(1, "nvidia")), "a")
    anyone = replace(WHO, demand=demand(gpu=GpuRequest(1)))
    assert check(node("a", gpus=cards), anyone, placed=(picky,)) == []


def test_a_resident_whose_gpu_is_gone_is_no_fault_of_who_arrives() -> None:
    cards = (Gpu("0", "amd", 8000),)
    stranded = PlacedInstance("stranded", demand("s", gpu=GpuRequest(1, "nvidia")), "a")
    anyone = replace(WHO, demand=demand(gpu=GpuRequest(1)))
    assert check(node("a", gpus=cards), anyone, placed=(stranded,)) == []


@given(st.integers(0, 2**32))
@example(1744115)
def test_the_plans_of_a_correct_scheduler_are_let_through(seed: int) -> None:
    snapshot, pending = random_scene(seed)
    assert verify(snapshot, pending, FakeScheduler().schedule(snapshot, pending)) == []


@given(st.integers(0, 2**32), st.data())
def test_moving_a_placement_to_a_node_that_will_not_do_is_told(seed: int, data: st.DataObject) -> None:
    snapshot, pending = random_scene(seed, relations=False)
    plan = FakeScheduler().schedule(snapshot, pending)
    if not plan.unplaceable:
        return
    victim = data.draw(st.sampled_from(plan.unplaceable))
    target = data.draw(st.sampled_from(snapshot.nodes))
    forced = PlacementPlan(
        (*plan.placements, Placement(victim.instance_id, target.name)),
        tuple(answer for answer in plan.unplaceable if answer is not victim),
    )
    assert verify(snapshot, pending, forced)


def test_ten_thousand_on_five_thousand_are_checked_in_no_time() -> None:
    nodes = tuple(node(f"n{i}") for i in range(5000))
    pending = tuple(replace(WHO, id=f"i{i}") for i in range(10_000))
    plan = PlacementPlan(tuple(Placement(who.id, f"n{i % 5000}") for i, who in enumerate(pending)))
    begun = time.process_time()
    assert verify(SchedulingSnapshot(1, nodes), pending, plan) == []
    assert time.process_time() - begun < 0.5
