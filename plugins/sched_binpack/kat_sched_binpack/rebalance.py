"""Suggesting moves: emptying whole nodes by moving what they run onto nodes that are in use anyway."""

from __future__ import annotations

from kat_platform.interfaces.scheduler import Move, PlacedInstance, SchedulingSnapshot
from kat_sched_binpack.config import BinpackConfig
from kat_sched_binpack.feasible import Request
from kat_sched_binpack.fleet import Fleet
from kat_sched_binpack.score import Scorer


def consolidate(config: BinpackConfig, snapshot: SchedulingSnapshot, max_moves: int) -> tuple[Move, ...]:
    """Suggest at most ``max_moves`` moves. A node is emptied wholly or not touched; nobody is moved twice.

    Nodes are tried from the least loaded on. What is pinned to its node, or may not be moved, keeps its node in use.
    """
    fleet = Fleet(snapshot)
    residents: dict[int, list[PlacedInstance]] = {}
    for instance in snapshot.placed:
        i = fleet.index.get(instance.node)
        if i is not None:
            residents.setdefault(i, []).append(instance)
    moves: list[Move] = []
    closed: set[int] = set()
    for source in sorted(residents, key=lambda i: (max(fleet.cpu_load[i], fleet.memory_load[i]), i)):
        group = residents[source]
        movable = all(instance.movable and instance.demand.pinned_to is None for instance in group)
        if source in closed or not movable or len(group) > max_moves - len(moves):
            continue
        targets = _evacuate(config, fleet, source, group, set(residents) - closed - {source})
        if targets is None:
            continue
        reason = f"empties node {fleet.nodes[source].name}"
        moves += [
            Move(instance.id, fleet.nodes[source].name, fleet.nodes[target].name, reason)
            for instance, target in zip(group, targets, strict=True)
        ]
        closed |= {source, *targets}
    return tuple(moves)


def _evacuate(
    config: BinpackConfig, fleet: Fleet, source: int, group: list[PlacedInstance], allowed: set[int]
) -> list[int] | None:
    """Find a target for each of ``group``, or leave the fleet as it was and give None."""
    done: list[int] = []
    for instance in group:
        fleet.remove(instance.id, instance.demand, source)
        request = Request(fleet, instance.demand)
        scorer = Scorer(config, request)
        fitting = [i for i in sorted(allowed) if request.fits(i)]
        if not fitting:
            fleet.add(instance.id, instance.demand, source)
            break
        target = max(fitting, key=lambda i: (scorer.of(i), -i))
        fleet.add(instance.id, instance.demand, target)
        done.append(target)
    if len(done) == len(group):
        return done
    for instance, target in zip(group, done, strict=False):
        fleet.remove(instance.id, instance.demand, target)
        fleet.add(instance.id, instance.demand, source)
    return None
