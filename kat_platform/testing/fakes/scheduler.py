"""A scheduler that is easy to believe in: the first node, by name, that the rules allow. It never preempts."""

from __future__ import annotations

from typing import ClassVar

from pydantic import BaseModel

from kat_platform.interfaces.driver import Capability, DriverContext, DriverInfo, DriverStatus, Health
from kat_platform.interfaces.scheduler import (
    Explanation,
    PendingInstance,
    PlacedInstance,
    Placement,
    PlacementPlan,
    SchedulingSnapshot,
    Unplaceable,
    Verdict,
)
from kat_platform.model.base import Model
from kat_platform.testing.placement import against


class FakeSchedulerConfig(Model):
    """There is nothing to configure."""


class FakeScheduler:
    """First fit, most important first. Takes time in proportion to instances, squared, and nodes: for tests only."""

    info: ClassVar[DriverInfo] = DriverInfo("fake", "1.0.0", Capability.SCHEDULER, summary="first fit, for tests")
    Config: ClassVar[type[BaseModel]] = FakeSchedulerConfig

    def __init__(self, config: BaseModel | None = None, context: DriverContext | None = None) -> None:
        self.config = config

    async def start(self) -> None:
        """There is nothing to make ready."""

    async def stop(self) -> None:
        """There is nothing to let go of."""

    async def status(self) -> DriverStatus:
        """Tell that all is well."""
        return DriverStatus(Health.OK)

    def schedule(self, snapshot: SchedulingSnapshot, pending: tuple[PendingInstance, ...]) -> PlacementPlan:
        """Place each instance on the first node that will do; nodes it should avoid come last."""
        present = list(snapshot.placed)
        placements: list[Placement] = []
        unplaceable: list[Unplaceable] = []
        for who in sorted(pending, key=lambda who: -who.demand.priority):
            reasons: dict[str, str] = {}
            for name in sorted((node.name for node in snapshot.nodes), key=lambda name: (name in who.avoid, name)):
                reason = against(snapshot, present, who, name)
                if not reason:
                    present.append(PlacedInstance(who.id, who.demand, name))
                    placements.append(Placement(who.id, name))
                    break
                reasons[name] = reason
            else:
                summary = f"0 of {len(snapshot.nodes)} nodes fit"
                unplaceable.append(Unplaceable(who.id, reasons, summary))
        return PlacementPlan(tuple(placements), tuple(unplaceable))

    def explain(self, snapshot: SchedulingSnapshot, pending: PendingInstance) -> Explanation:
        """Tell for each node whether it will do, as one verdict."""
        verdicts = [
            Verdict(node.name, "all", reason, f"change what is said of {node.name}: {reason}" if reason else "")
            for node in snapshot.nodes
            for reason in [against(snapshot, snapshot.placed, pending, node.name)]
        ]
        fitting = {verdict.node: 0.0 for verdict in verdicts if verdict.passed}
        remedy = "" if fitting else next((verdict.remedy for verdict in verdicts), "add a node")
        return Explanation(tuple(verdicts), fitting, remedy)
