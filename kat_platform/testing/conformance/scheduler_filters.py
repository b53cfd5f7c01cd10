"""Checks of what a node must be, or have: one for each filter of the contract."""

from __future__ import annotations

from kat_platform.interfaces.scheduler import (
    Contributions,
    Gpu,
    GpuRequest,
    PlacedInstance,
    Scheduler,
    Taint,
    TaintEffect,
    Toleration,
)
from kat_platform.testing.conformance.kit import Kit, require
from kat_platform.testing.conformance.scheduler_scenes import (
    MEBI,
    cluster,
    demand,
    node,
    only_goes_to,
    planned,
    several,
    where,
)

FILTERS: Kit[Scheduler] = Kit("scheduler")


@FILTERS.check("nothing goes to a node that is not ready")
async def readiness(driver: Scheduler) -> None:
    """See the rule."""
    nodes = cluster(node("a", ready=False, not_ready_reason="gone"), node("b"))
    await only_goes_to(driver, nodes, demand(), {"b"}, "readiness")


@FILTERS.check("nothing goes to a cordoned node")
async def cordon(driver: Scheduler) -> None:
    """See the rule."""
    await only_goes_to(driver, cluster(node("a", cordoned=True), node("b")), demand(), {"b"}, "cordon")


@FILTERS.check("a node selector needs all of its labels")
async def selector(driver: Scheduler) -> None:
    """See the rule."""
    nodes = cluster(node("a", labels={"disk": "ssd"}), node("b", labels={"disk": "ssd", "arch": "arm64"}), node("c"))
    wanted = demand(node_selector={"disk": "ssd", "arch": "arm64"})
    await only_goes_to(driver, nodes, wanted, {"b"}, "selector")
    await only_goes_to(driver, nodes, demand(node_selector={"disk": "tape"}), set(), "selector")


@FILTERS.check("NoSchedule and NoExecute taints keep away what does not tolerate them; PreferNoSchedule does not")
async def taints(driver: Scheduler) -> None:
    """See the rule."""
    nodes = cluster(
        node("a", taints=(Taint("gpu", "yes"),)),
        node("b", taints=(Taint("gone", effect=TaintEffect.NO_EXECUTE),)),
        node("c", taints=(Taint("slow", effect=TaintEffect.PREFER_NO_SCHEDULE),)),
    )
    await only_goes_to(driver, nodes, demand(), {"c"}, "taints")
    hard = cluster(*nodes.nodes[:2])
    equal = demand(tolerations=(Toleration("gpu", "Equal", "yes"),))
    await only_goes_to(driver, hard, equal, {"a"}, "tolerations, Equal")
    other = demand(tolerations=(Toleration("gpu", "Equal", "no"),))
    await only_goes_to(driver, hard, other, set(), "tolerations, another value")
    exists = demand(tolerations=(Toleration("gone", "Exists", effect=TaintEffect.NO_EXECUTE),))
    await only_goes_to(driver, hard, exists, {"b"}, "tolerations, Exists")


@FILTERS.check("the instances of a node never ask for more than it has, those of the batch included")
async def capacity(driver: Scheduler) -> None:
    """See the rule."""
    half = PlacedInstance("old", demand("old", cpu_millicores=2000, memory_bytes=4096 * MEBI), "a")
    asks = {"cpu": demand(cpu_millicores=1000, memory_bytes=0), "memory": demand(memory_bytes=2048 * MEBI)}
    for what, asked in asks.items():
        plan = await planned(driver, cluster(node("a"), placed=(half,)), several(3, asked))
        require(len(plan.placements) == 2, f"{what}: {len(plan.placements)} of 3 placed, there is room for exactly 2")
    nodes = cluster(node("a"), node("b", cpu_millicores=16000))
    await only_goes_to(driver, nodes, demand(cpu_millicores=5000), {"b"}, "cpu")


@FILTERS.check("an instance that asks for nothing fits on a node that is full")
async def asking_nothing(driver: Scheduler) -> None:
    """See the rule."""
    full = PlacedInstance("old", demand("old", cpu_millicores=4000, memory_bytes=8192 * MEBI), "a")
    nothing = demand(cpu_millicores=0, memory_bytes=0)
    await only_goes_to(driver, cluster(node("a"), placed=(full,)), nothing, {"a"}, "no requests")


@FILTERS.check("a node runs at most max_instances")
async def slots(driver: Scheduler) -> None:
    """See the rule."""
    old = PlacedInstance("old", demand("old"), "a")
    plan = await planned(driver, cluster(node("a", max_instances=3), placed=(old,)), several(3, demand()))
    require(len(plan.placements) == 2, f"{len(plan.placements)} placed on a node with 2 slots left")


@FILTERS.check("GPUs are counted by driver and memory, and those in use or promised do not count")
async def gpus(driver: Scheduler) -> None:
    """See the rule."""
    cards = (Gpu("0", "nvidia", 8000, "old"), Gpu("1", "nvidia", 24000), Gpu("2", "amd", 16000))
    old = PlacedInstance("old", demand("old", gpu=GpuRequest(1)), "a")
    nodes = cluster(node("a", gpus=cards), node("b"), placed=(old,))
    await only_goes_to(driver, nodes, demand(gpu=GpuRequest(1, "nvidia", 20000)), {"a"}, "gpu", count=1)
    await only_goes_to(driver, nodes, demand(gpu=GpuRequest(2, "nvidia")), set(), "gpu", count=1)
    plan = await planned(driver, nodes, several(3, demand(gpu=GpuRequest(1))))
    require(len(plan.placements) == 2, f"{len(plan.placements)} placed where 2 GPUs are free")
    held = cluster(node("a", gpus=(Gpu("0", "nvidia", 8000, "somebody"),)))
    await only_goes_to(driver, held, demand(gpu=GpuRequest(1)), set(), "a GPU in use", count=1)
    promised = PlacedInstance("new", demand("new", gpu=GpuRequest(2)), "a")
    await only_goes_to(driver, cluster(*nodes.nodes, placed=(old, promised)), demand(gpu=GpuRequest(1)), set(), "gpu")


@FILTERS.check("a host port is bound once on a node, whoever has it, for each protocol")
async def host_ports(driver: Scheduler) -> None:
    """See the rule."""
    old = PlacedInstance("old", demand("old", host_ports=((80, "TCP"),)), "a")
    nodes = cluster(node("a"), node("b"), node("c"), placed=(old,))
    plan = await planned(driver, nodes, several(3, demand(host_ports=((80, "TCP"),))))
    found = sorted(where(plan).values())
    require(found == ["b", "c"], f"placed on {found}, not once on b and c")
    udp = demand(host_ports=((80, "UDP"),))
    await only_goes_to(driver, cluster(node("a"), placed=(old,)), udp, {"a"}, "host port of another protocol", count=1)


@FILTERS.check("an instance pinned to its data goes there or nowhere")
async def pinned(driver: Scheduler) -> None:
    """See the rule."""
    nodes = (node("a"), node("b"), node("c"))
    await only_goes_to(driver, cluster(*nodes), demand(pinned_to="b"), {"b"}, "pinned_to")
    await only_goes_to(driver, cluster(*nodes), demand(pinned_to="x"), set(), "pinned_to a node that is gone")
    full = cluster(node("a"), node("b", cordoned=True))
    await only_goes_to(driver, full, demand(pinned_to="b"), set(), "pinned_to a cordoned node")


@FILTERS.check("an instance with only_node goes there or nowhere")
async def only_node(driver: Scheduler) -> None:
    """See the rule."""
    nodes = cluster(node("a"), node("b"), node("c", ready=False))
    daemon = demand("daemon")
    pending = tuple(several(1, daemon, f"d-{name}", only_node=name)[0] for name in ("a", "b", "c", "x"))
    plan = await planned(driver, nodes, pending)
    require(where(plan) == {"d-a-0": "a", "d-b-0": "b"}, f"placed as {where(plan)}")


@FILTERS.check("a contributed filter is obeyed")
async def contributed_filter(driver: Scheduler) -> None:
    """See the rule."""
    odd = Contributions(filters=(("odd", lambda asked, at: None if at.name in ("b", "d") else f"{at.name} is odd"),))
    nodes = [node(name, cpu_millicores=1000) for name in "abcd"]
    await only_goes_to(driver, cluster(*nodes, contributions=odd), demand(), {"b", "d"}, "contributed filter", count=4)
    never = Contributions(filters=(("never", lambda asked, at: "no"),))
    await only_goes_to(driver, cluster(*nodes, contributions=never), demand(), set(), "contributed filter")


@FILTERS.check("a contributed score that outweighs all else decides, among nodes that will do")
async def contributed_score(driver: Scheduler) -> None:
    """See the rule; a scheduler that ranks by something else entirely may say so with ``scores: False``."""
    if not driver.info.capabilities.get("scores", False):
        return
    love = Contributions(scores=(("love", 10_000.0, lambda asked, at: 100.0 if at.name in ("b", "c") else 0.0),))
    nodes = cluster(node("a"), node("b", cordoned=True), node("c"), contributions=love)
    await only_goes_to(driver, nodes, demand(), {"c"}, "contributed score")
