"""What the scheduler's checks are made of: small clusters, demands, and a judge of plans."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

from kat_platform.interfaces.scheduler import (
    Demand,
    PendingInstance,
    PlacedInstance,
    PlacementPlan,
    SchedulableNode,
    Scheduler,
    SchedulingSnapshot,
)
from kat_platform.leader.verify_plan import verify
from kat_platform.testing.conformance.kit import require

MEBI = 1024 * 1024


def node(name: str, **more: Any) -> SchedulableNode:
    """Make a node with 4 cores and 8 GiB, unless told otherwise."""
    return SchedulableNode(name, **{"cpu_millicores": 4000, "memory_bytes": 8192 * MEBI, **more})


def demand(workload: str = "web", **more: Any) -> Demand:
    """Make a demand for half a core and 512 MiB, labelled ``app=WORKLOAD``; its key stands for everything in it."""
    fields = {"namespace": "default", "cpu_millicores": 500, "memory_bytes": 512 * MEBI, "labels": {"app": workload}}
    made = Demand(key="", workload=workload, **{**fields, **more})
    return replace(made, key=repr(made))


def several(count: int, of: Demand, prefix: str = "", **more: Any) -> tuple[PendingInstance, ...]:
    """Make pending instances that are alike."""
    return tuple(PendingInstance(f"{prefix or of.workload}-{i}", of, **more) for i in range(count))


def cluster(*nodes: SchedulableNode, placed: tuple[PlacedInstance, ...] = (), **more: Any) -> SchedulingSnapshot:
    """Make a snapshot."""
    return SchedulingSnapshot(7, nodes, placed, **more)


async def planned(
    driver: Scheduler, snapshot: SchedulingSnapshot, pending: tuple[PendingInstance, ...]
) -> PlacementPlan:
    """Let the driver plan, in a thread as the host does, and require that the host would accept the plan."""
    plan = await asyncio.to_thread(driver.schedule, snapshot, pending)
    require(isinstance(plan, PlacementPlan), f"schedule gave {type(plan).__name__}, not a PlacementPlan")
    faults = verify(snapshot, pending, plan)
    require(not faults, f"the host would refuse the plan: {'; '.join(faults[:5])}")
    return plan


def where(plan: PlacementPlan) -> dict[str, str]:
    """Give the node of each instance that was placed."""
    return {placement.instance_id: placement.node for placement in plan.placements}


async def only_goes_to(
    driver: Scheduler, snapshot: SchedulingSnapshot, of: Demand, wanted: set[str], rule: str, count: int = 2
) -> None:
    """Require that instances of ``of`` go to nodes in ``wanted`` and nowhere else, and that every one is placed.

    With no node wanted, require that none is placed, and that every node is named with a reason.
    """
    pending = several(count, of)
    plan = await planned(driver, snapshot, pending)
    found = set(where(plan).values())
    require(found <= wanted, f"{rule}: placed on {sorted(found - wanted)}, only {sorted(wanted)} would do")
    missing = "; ".join(answer.summary for answer in plan.unplaceable)
    require(not wanted or not missing, f"{rule}: not placed though {sorted(wanted)} would do: {missing}")
    names = {node.name for node in snapshot.nodes}
    for answer in plan.unplaceable:
        require(set(answer.reasons) == names, f"the reasons name {sorted(answer.reasons)}, not every node")
        require(all(answer.reasons.values()), "a node is named without a reason")
        require(answer.summary.strip(), "an instance that cannot be placed has no summary")
