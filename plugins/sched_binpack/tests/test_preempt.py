"""Making room: as few victims as will do, as unimportant as can be, and only when nothing else helps."""

from __future__ import annotations

from kat_sched_binpack.config import BinpackConfig
from kat_sched_binpack.driver import BinpackScheduler

from kat_platform.interfaces.scheduler import Affinity, AffinityTerm, Gpu, GpuRequest, PlacedInstance, Placement
from kat_platform.interfaces.scheduler import SchedulingSnapshot as Snapshot
from kat_platform.testing.conformance.scheduler_scenes import cluster, demand, node, several


def old(name: str, at: str, cpu: int = 1000, priority: int = 0, **more: object) -> PlacedInstance:
    return PlacedInstance(name, demand(name, cpu_millicores=cpu, priority=priority, **more), at)


def urgent(driver: BinpackScheduler, snapshot: Snapshot, count: int = 1, **more: object) -> tuple[Placement, ...]:
    return driver.schedule(snapshot, several(count, demand("urgent", **{"priority": 10, **more}))).placements


def test_one_victim_that_is_enough_is_better_than_two(binpack: BinpackScheduler) -> None:
    full = cluster(node("a"), placed=(old("s1", "a"), old("s2", "a"), old("large", "a", 2000)))
    (placed,) = urgent(binpack, full, cpu_millicores=2000)
    assert placed.preempts == ("large",)


def test_the_smallest_that_is_enough_goes(binpack: BinpackScheduler) -> None:
    full = cluster(node("a"), placed=(old("small", "a", 1000), old("large", "a", 3000)))
    (placed,) = urgent(binpack, full, cpu_millicores=900)
    assert placed.preempts == ("small",)


def test_the_least_important_goes_even_if_it_is_more_of_them(binpack: BinpackScheduler) -> None:
    full = cluster(node("a"), placed=(old("s1", "a"), old("s2", "a"), old("large", "a", 2000, priority=5)))
    (placed,) = urgent(binpack, full, cpu_millicores=2000)
    assert set(placed.preempts) == {"s1", "s2"}


def test_the_node_with_the_least_important_victim_is_chosen(binpack: BinpackScheduler) -> None:
    full = cluster(node("a"), node("b"), placed=(old("mid", "a", 4000, 5), old("low", "b", 4000, 1)))
    (placed,) = urgent(binpack, full, cpu_millicores=4000)
    assert (placed.node, placed.preempts) == ("b", ("low",))


def test_nobody_is_preempted_twice_and_room_made_is_used(binpack: BinpackScheduler) -> None:
    full = cluster(node("a"), node("b"), placed=(old("l1", "a", 4000), old("l2", "b", 4000)))
    placements = urgent(binpack, full, count=5, cpu_millicores=2000)
    assert len(placements) == 4
    assert sorted(victim for placed in placements for victim in placed.preempts) == ["l1", "l2"]


def test_who_keeps_the_newcomer_away_can_be_preempted(binpack: BinpackScheduler) -> None:
    hermit = old("hermit", "a", 100, anti_affinity=Affinity(required=(AffinityTerm({"app": "urgent"}),)))
    (placed,) = urgent(binpack, cluster(node("a"), placed=(old("other", "a"), hermit)))
    assert placed.preempts == ("hermit",)


def test_a_gpu_and_a_host_port_can_be_freed(binpack: BinpackScheduler) -> None:
    holder = old("holder", "a", gpu=GpuRequest(1))
    snapshot = cluster(node("a", gpus=(Gpu("0", "nvidia", 8000, "holder"),)), placed=(holder, old("other", "a")))
    (placed,) = urgent(binpack, snapshot, gpu=GpuRequest(1))
    assert placed.preempts == ("holder",)
    bound = cluster(node("a"), placed=(old("web", "a", host_ports=((80, "TCP"),)), old("other", "a")))
    (placed,) = urgent(binpack, bound, host_ports=((80, "TCP"),))
    assert placed.preempts == ("web",)


def test_it_can_be_switched_off(binpack: BinpackScheduler) -> None:
    full = cluster(node("a"), placed=(old("low", "a", 4000),))
    assert urgent(binpack, full)
    off = BinpackScheduler(BinpackConfig(preemption=False), None)  # type: ignore[arg-type]  # it needs no context
    assert not urgent(off, full)


def test_nothing_is_preempted_where_that_would_not_help(binpack: BinpackScheduler) -> None:
    snapshot = cluster(node("a", cordoned=True), node("b", cpu_millicores=1000), placed=(old("low", "b"),))
    assert not urgent(binpack, snapshot, cpu_millicores=2000)
