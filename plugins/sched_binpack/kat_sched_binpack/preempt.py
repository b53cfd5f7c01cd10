"""Making room for an important instance by stopping less important ones: as few, and as unimportant, as will do.

On one node: all instances of lower priority are taken away; if the newcomer then fits, they are put back one after
another, the most important and the smallest first, wherever it still fits. What is left are victims none of which
can be spared. Among nodes, the one wins whose most important victim is least important, then the fewest victims, then
the least taken away, then the first by name.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterable
from dataclasses import dataclass

from kat_platform.interfaces.scheduler import PlacedInstance
from kat_sched_binpack.feasible import Request
from kat_sched_binpack.fleet import Fleet


@dataclass(frozen=True, slots=True)
class Eviction:
    """Which instances have to stop so that the newcomer fits on a node."""

    node: int
    victims: tuple[PlacedInstance, ...]


class Residents:
    """The instances that were placed before this call and have not been evicted in it, by node."""

    def __init__(self, fleet: Fleet, placed: Iterable[PlacedInstance]) -> None:
        self._by_node: dict[int, list[PlacedInstance]] = {}
        for instance in placed:
            i = fleet.index.get(instance.node)
            if i is not None:
                self._by_node.setdefault(i, []).append(instance)
        self._lowest = sorted((min(r.demand.priority for r in who), i) for i, who in self._by_node.items())

    def below(self, priority: int, i: int) -> list[PlacedInstance]:
        """Give the instances on node ``i`` of lower priority, most important first, then smallest, then by id."""
        lower = [resident for resident in self._by_node.get(i, ()) if resident.demand.priority < priority]
        return sorted(lower, key=lambda r: (-r.demand.priority, r.demand.memory_bytes, r.demand.cpu_millicores, r.id))

    def evict(self, eviction: Eviction) -> None:
        """Strike the victims off."""
        gone = {victim.id for victim in eviction.victims}
        left = [r for r in self._by_node[eviction.node] if r.id not in gone]
        self._by_node[eviction.node] = left
        self._lowest = [entry for entry in self._lowest if entry[1] != eviction.node]
        if left:
            insort(self._lowest, (min(r.demand.priority for r in left), eviction.node))

    def nodes_below(self, priority: int) -> list[int]:
        """Give the nodes that have anybody of lower priority, those with the least important first."""
        return [i for _, i in self._lowest[: bisect_left(self._lowest, (priority, -1))]]


def find(fleet: Fleet, residents: Residents, request: Request, limit: int) -> Eviction | None:
    """Find the gentlest eviction that makes room for one instance, among the first ``limit`` nodes that have one.

    Nodes are looked at from the one with the least important instance on. The fleet is left as it was found.
    """
    priority = request.demand.priority
    best: tuple[tuple[int, int, int, int, int], Eviction] | None = None
    looked_at = 0
    for i in residents.nodes_below(priority):
        if looked_at >= limit:
            break
        if not request.static[i] or request.single not in (None, fleet.nodes[i].name):
            continue
        lower = residents.below(priority, i)
        if not _enough(fleet, request, i, lower):
            continue
        victims = _victims(fleet, request, i, lower)
        if victims is None:
            continue
        looked_at += 1
        memory, cpu = sum(v.demand.memory_bytes for v in victims), sum(v.demand.cpu_millicores for v in victims)
        cost = (max(v.demand.priority for v in victims), len(victims), memory, cpu, i)
        if best is None or cost < best[0]:
            best = (cost, Eviction(i, tuple(victims)))
    return best[1] if best is not None else None


def _enough(fleet: Fleet, request: Request, i: int, lower: list[PlacedInstance]) -> bool:
    """Sort out, without trying, the nodes that would lack room even if all of ``lower`` went."""
    cpu = fleet.free_cpu[i] + sum(r.demand.cpu_millicores for r in lower)
    memory = fleet.free_memory[i] + sum(r.demand.memory_bytes for r in lower)
    return (not request.cpu or request.cpu <= cpu) and (not request.memory or request.memory <= memory)


def _victims(fleet: Fleet, request: Request, i: int, lower: list[PlacedInstance]) -> list[PlacedInstance] | None:
    for resident in lower:
        fleet.remove(resident.id, resident.demand, i)
    request.reset()
    victims: list[PlacedInstance] | None = None
    if request.fits(i):
        victims = []
        for resident in lower:
            fleet.add(resident.id, resident.demand, i)
            request.reset()
            if not request.fits(i):
                fleet.remove(resident.id, resident.demand, i)
                request.reset()
                victims.append(resident)
        victims = _fewer(fleet, request, i, lower, victims)
    gone = lower if victims is None else victims
    for resident in gone:
        fleet.add(resident.id, resident.demand, i)
    request.reset()
    return victims


def _fewer(
    fleet: Fleet, request: Request, i: int, lower: list[PlacedInstance], victims: list[PlacedInstance]
) -> list[PlacedInstance]:
    """Try whether one smaller or less important instance alone would do in place of ``victims``, which are gone."""
    for resident in victims:
        fleet.add(resident.id, resident.demand, i)
    best = victims
    highest = max(v.demand.priority for v in victims)
    for one in sorted(lower, key=lambda r: (r.demand.priority, r.demand.memory_bytes, r.demand.cpu_millicores, r.id)):
        if one.demand.priority > highest:
            break
        fleet.remove(one.id, one.demand, i)
        request.reset()
        enough = request.fits(i)
        fleet.add(one.id, one.demand, i)
        if enough:
            best = [one]
            break
    for resident in best:
        fleet.remove(resident.id, resident.demand, i)
    request.reset()
    return best
