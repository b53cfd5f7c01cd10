"""How good a node is for one request: the higher, the better. Only compared among nodes that will do.

``packing`` is the share (0 to 100) of the node's dominant resource that would be used, so the fullest node that still
fits wins (best fit). For a large batch there are nodes to be filled evenly (``targets.py``): there it is 200 less that
share, so the least full of them wins; and other empty nodes are held back. Everything else is added in one fixed
order, so that the vector form in ``vectors.py`` adds the same floating-point numbers in the same order and comes to
the very same sums.
"""

from __future__ import annotations

from kat_platform.interfaces.scheduler import Demand
from kat_sched_binpack.config import BinpackConfig
from kat_sched_binpack.feasible import Request
from kat_sched_binpack.fleet import soft_taints

AVOIDED = 1_000_000.0
"""Taken off a node where the instance has failed lately: more than all scores together, so it comes last."""


class Scorer:
    """Scores the nodes for one request."""

    def __init__(self, config: BinpackConfig, request: Request) -> None:
        self.config = config
        self.request = request
        fleet, demand = request.fleet, request.demand
        self.mates = fleet.workloads.setdefault((demand.namespace, demand.workload), {})
        """How many instances of the workload each node has; kept true by the fleet."""
        self.avoided = [fleet.index[name] for name in sorted(request.avoid) if name in fleet.index]
        self.image_nodes: list[int] = fleet.images.get(demand.image, []) if demand.image and config.image else []
        """Nodes that have the image; none where that does not count."""
        self.unwelcome: dict[int, float] = self._unwelcome() if fleet.tainted else {}
        """What PreferNoSchedule taints take off, by node."""
        self._image = demand.image if self.image_nodes else ""

    def _unwelcome(self) -> dict[int, float]:
        fleet, weight = self.request.fleet, self.config.prefer_no_schedule
        counts = {i: soft_taints(fleet.nodes[i], self.request.demand) for i in fleet.tainted}
        return {i: weight * 100.0 * count for i, count in counts.items() if count}

    def of(self, i: int) -> float:
        """Give the score of node ``i``."""
        fleet, request = self.request.fleet, self.request
        packing = max(
            request.cpu * fleet.cpu_unit[i] + fleet.cpu_load[i],
            request.memory * fleet.memory_unit[i] + fleet.memory_load[i],
        )
        score = packing * self.config.packing
        if i in fleet.even:
            score = 200.0 * self.config.packing - score
        elif i in fleet.reserve:
            score -= held_back(self.config)
        if self._image and self._image in fleet.nodes[i].images:
            score += self.config.image * 100.0
        if self.unwelcome:
            score -= self.unwelcome.get(i, 0.0)
        for wish in request.wishes:
            score += wish.value(wish.tally.place_of[i]) * self.config.preferred
        for _, weight, ask in fleet.contributions.scores:
            score += contribution(weight, ask(request.demand, fleet.nodes[i]))
        mates = self.mates.get(i, 0)
        if mates:
            score -= crowding(self.config, mates)
        if i in self.avoided:
            score -= AVOIDED
        return score


def held_back(config: BinpackConfig) -> float:
    """Give what is taken off an empty node that the batch should do without: more than packing and spreading count."""
    return (config.packing + config.spreading) * 100.0


def crowding(config: BinpackConfig, mates: int) -> float:
    """Give what ``mates`` instances of the same workload on a node take off: half at the first, ever less after."""
    return config.spreading * 100.0 * mates / (1 + mates)


def contribution(weight: float, value: float) -> float:
    """Give what a contributed score adds: 0 to 100 times its weight; what is not a number adds nothing."""
    return weight * min(max(value, 0.0), 100.0) if value == value else 0.0


def sizes(demands: dict[str, Demand], counts: dict[str, int], cpu: int, memory: int) -> dict[str, float]:
    """Give each demand's size for ordering a batch, largest first: its shares of all the room (``cpu``, ``memory``).

    Each resource is weighted by how much of it the batch asks for, so the scarce one decides. Placing by size first
    is what makes best fit pack well; weighting packs 2 to 5 % tighter than the larger share alone.
    """
    cpu, memory = max(cpu, 1), max(memory, 1)
    scarce_cpu = sum(d.cpu_millicores * counts[key] for key, d in demands.items()) / cpu
    scarce_memory = sum(d.memory_bytes * counts[key] for key, d in demands.items()) / memory
    return {
        key: d.cpu_millicores / cpu * scarce_cpu + d.memory_bytes / memory * scarce_memory for key, d in demands.items()
    }
