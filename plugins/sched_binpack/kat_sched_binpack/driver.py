"""The scheduler itself: group the batch, place each group best node first, make room where that is allowed."""

from __future__ import annotations

from typing import ClassVar

from pydantic import BaseModel

from kat_platform.interfaces.driver import Capability, DriverContext, DriverInfo, DriverStatus, Health
from kat_platform.interfaces.scheduler import (
    Explanation,
    Move,
    PendingInstance,
    PlacementPlan,
    SchedulingSnapshot,
)
from kat_sched_binpack.batch import Batch
from kat_sched_binpack.config import BinpackConfig
from kat_sched_binpack.explain import explain
from kat_sched_binpack.feasible import Request
from kat_sched_binpack.fleet import Fleet
from kat_sched_binpack.rebalance import consolidate
from kat_sched_binpack.score import Scorer

VERSION = "1.0.0"


class BinpackScheduler:
    """Packs instances onto as few nodes as their rules allow. Keeps nothing between calls."""

    info: ClassVar[DriverInfo] = DriverInfo(
        name="binpack",
        version=VERSION,
        capability=Capability.SCHEDULER,
        capabilities={"preempts": True, "rebalances": True, "scores": True},
        summary="bin-packing by best fit on the dominant resource",
    )
    Config: ClassVar[type[BaseModel]] = BinpackConfig

    def __init__(self, config: BinpackConfig | None, context: DriverContext) -> None:
        self._config = config if config is not None else BinpackConfig()

    async def start(self) -> None:
        """There is nothing to make ready."""

    async def stop(self) -> None:
        """There is nothing to let go of."""

    async def status(self) -> DriverStatus:
        """Tell that all is well: a pure function has no health of its own."""
        return DriverStatus(Health.OK, "ready", {"vectorNodes": self._config.vector_nodes})

    def schedule(self, snapshot: SchedulingSnapshot, pending: tuple[PendingInstance, ...]) -> PlacementPlan:
        """Place the batch, most important first, and within one priority the largest first."""
        return Batch(self._config, snapshot, pending).plan()

    def explain(self, snapshot: SchedulingSnapshot, pending: PendingInstance) -> Explanation:
        """Tell every filter's verdict on every node, the scores of those that will do, and the smallest remedy."""
        request = Request.of(Fleet(snapshot), pending)
        return explain(request, Scorer(self._config, request))

    def rebalance(self, snapshot: SchedulingSnapshot, *, max_moves: int) -> tuple[Move, ...]:
        """Suggest moves that empty whole nodes, the emptiest first."""
        return consolidate(self._config, snapshot, max_moves)
