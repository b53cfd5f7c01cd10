"""Measures of the scheduler: how tightly it packs, and how fast it decides.

Each function gives plain rows (``dict``) for the table that ``make bench`` prints. Everything is seeded.
"""

from __future__ import annotations

import math
import random
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from kat_sched_binpack.driver import BinpackScheduler

from kat_platform.interfaces.driver import DriverContext
from kat_platform.interfaces.scheduler import (
    Demand,
    PendingInstance,
    PlacementPlan,
    SchedulableNode,
    Scheduler,
    SchedulingSnapshot,
)
from kat_platform.leader.verify_plan import verify

Batch = tuple[SchedulingSnapshot, tuple[PendingInstance, ...]]

MEBI: Final = 1024 * 1024
NODE_CPU: Final = 16_000
NODE_MEMORY: Final = 65_536 * MEBI
PACKING_LIMIT: Final = 1.045

_SKEWED: Final = (
    # share of workloads, cpu in millicores (from, to), memory in MiB (from, to), replicas (from, to)
    (0.55, (50, 250), (64, 512), (1, 12)),
    (0.25, (250, 1000), (256, 2048), (2, 20)),
    (0.12, (500, 2000), (2048, 8192), (1, 6)),
    (0.05, (2000, 6000), (1024, 8192), (1, 8)),
    (0.03, (1000, 4000), (8192, 24576), (1, 3)),
)


def _scheduler() -> Scheduler:
    nowhere = Path(tempfile.gettempdir())
    return BinpackScheduler(None, DriverContext("bench", nowhere, nowhere, "bench"))


def fleet(nodes: int) -> tuple[SchedulableNode, ...]:
    """Make ``nodes`` equal nodes of 16 cores and 64 GiB."""
    return tuple(
        SchedulableNode(f"node-{i:05}", NODE_CPU, NODE_MEMORY, max_instances=1000, labels={"zone": f"z{i % 3}"})
        for i in range(nodes)
    )


def uniform(seed: int, count: int) -> tuple[PendingInstance, ...]:
    """Make instances that all differ: cpu 0.1 to 4 cores and memory 128 MiB to 16 GiB, independent and uniform."""
    chance = random.Random(seed)
    made = []
    for i in range(count):
        cpu, memory = chance.randrange(100, 4001, 50), chance.randrange(128, 16385, 64) * MEBI
        made.append(PendingInstance(f"i{i}", Demand(f"d{i}", "default", f"w{i}", {}, cpu, memory)))
    return tuple(made)


def skewed(seed: int, count: int) -> tuple[PendingInstance, ...]:
    """Make workloads as clusters have them: many small ones, few large; some want cpu, some memory; with replicas."""
    chance = random.Random(seed)
    made: list[PendingInstance] = []
    while len(made) < count:
        (_, cpus, memories, replicas) = chance.choices(_SKEWED, [row[0] for row in _SKEWED])[0]
        w = f"w{len(made)}"
        cpu = chance.randrange(cpus[0], cpus[1] + 1, 50)
        memory = chance.randrange(memories[0], memories[1] + 1, 64) * MEBI
        demand = Demand(f"d-{w}", "default", w, {"app": w}, cpu, memory)
        for _ in range(min(chance.randint(*replicas), count - len(made))):
            made.append(PendingInstance(f"i{len(made)}", demand))
    chance.shuffle(made)
    return tuple(made)


GENERATORS: Final[dict[str, Callable[[int, int], tuple[PendingInstance, ...]]]] = {"uniform": uniform, "skewed": skewed}


def batch(nodes: int = 5000, pending: int = 10_000, seed: int = 1, generator: str = "skewed") -> Batch:
    """Give a snapshot and a batch for measures that go on to commit the plan, e.g. into a real store."""
    return SchedulingSnapshot(1, fleet(nodes)), GENERATORS[generator](seed, pending)


def _checked(work: Batch, plan: PlacementPlan) -> None:
    faults = verify(*work, plan)
    if faults or plan.unplaceable:
        raise AssertionError(f"{len(faults)} faults ({faults[:3]}), {len(plan.unplaceable)} not placed")


def lower_bound(pending: tuple[PendingInstance, ...]) -> int:
    """Give the number of machines that no packing can do with less than: the scarcer resource, summed up."""
    cpu = sum(p.demand.cpu_millicores for p in pending)
    memory = sum(p.demand.memory_bytes for p in pending)
    return max(math.ceil(cpu / NODE_CPU), math.ceil(memory / NODE_MEMORY))


def bench_packing(pending: int = 10_000, seeds: tuple[int, ...] = (1, 2, 3)) -> list[dict[str, Any]]:
    """Measure machines used over the lower bound, worst of the seeds, on both generators."""
    rows: list[dict[str, Any]] = []
    for name in GENERATORS:
        ratios = []
        for seed in seeds:
            work = batch(5000, pending, seed, name)
            plan = _scheduler().schedule(*work)
            _checked(work, plan)
            ratios.append(len({placement.node for placement in plan.placements}) / lower_bound(work[1]))
        rows.append(
            {
                "measure": f"packing, {name}",
                "instances": pending,
                "seeds": len(seeds),
                "median": round(statistics.median(ratios), 4),
                "worst": round(max(ratios), 4),
                "limit": PACKING_LIMIT,
                "ok": max(ratios) <= PACKING_LIMIT,
            }
        )
    return rows


def bench_schedule_pure(nodes: int = 5000, pending: int = 10_000, rounds: int = 5) -> list[dict[str, Any]]:
    """Measure decisions per second (and the host's check of the plan), nothing committed."""
    rows: list[dict[str, Any]] = []
    for name in GENERATORS:
        work = batch(nodes, pending, 1, name)
        _scheduler().schedule(*batch(nodes, 10, 1, name))  # NumPy's import is paid once per process, not per batch
        decide, check = [], []
        for _ in range(rounds):
            begun = time.perf_counter()
            plan = _scheduler().schedule(*work)
            decided = time.perf_counter()
            _checked(work, plan)
            decide.append(decided - begun)
            check.append(time.perf_counter() - decided)
        rows.append(
            {
                "measure": f"schedule, {name}",
                "nodes": nodes,
                "instances": pending,
                "distinct": len({p.demand.key for p in work[1]}),
                "median_s": round(statistics.median(decide), 4),
                "per_second": round(pending / statistics.median(decide)),
                "verify_s": round(statistics.median(check), 4),
            }
        )
    return rows


if __name__ == "__main__":
    for row in bench_packing() + bench_schedule_pure():
        print(row)
