"""The driver: most important first, each on the node where most room would be left. It never preempts."""

from __future__ import annotations

from typing import ClassVar

from pydantic import BaseModel, ConfigDict, Field

from kat_platform.interfaces.driver import Capability, DriverContext, DriverInfo, DriverStatus, Health
from kat_platform.interfaces.scheduler import (
    Explanation,
    PendingInstance,
    Placement,
    PlacementPlan,
    SchedulingSnapshot,
    Unplaceable,
    Verdict,
)
from least_loaded.rules import RULES, Cluster, Place


class LeastLoadedConfig(BaseModel):
    """What goes under ``pluginConfig.least-loaded``."""

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)

    memory_weight: float = Field(
        default=1.0, alias="memoryWeight", ge=0, le=100, description="How much free memory counts beside free cpu."
    )


class LeastLoadedScheduler:
    """Keeps nodes equally busy."""

    info: ClassVar[DriverInfo] = DriverInfo(
        name="least-loaded",
        version="0.1.0",
        capability=Capability.SCHEDULER,
        capabilities={"preempts": False, "scores": True},
        summary="keeps every node equally busy",
    )
    Config: ClassVar[type[BaseModel]] = LeastLoadedConfig

    def __init__(self, config: LeastLoadedConfig, context: DriverContext) -> None:
        self._config = config

    async def start(self) -> None:
        """There is nothing to make ready."""

    async def stop(self) -> None:
        """There is nothing to let go of."""

    async def status(self) -> DriverStatus:
        """Tell that all is well."""
        return DriverStatus(Health.OK)

    def schedule(self, snapshot: SchedulingSnapshot, pending: tuple[PendingInstance, ...]) -> PlacementPlan:
        """Place the batch, most important first."""
        cluster = Cluster(snapshot)
        placements: list[Placement] = []
        unplaceable: list[Unplaceable] = []
        for who in sorted(pending, key=lambda who: -who.demand.priority):
            reasons = {place.node.name: _first_reason(cluster, who, place) for place in cluster.places}
            fitting = [place for place in cluster.places if not reasons[place.node.name]]
            if fitting:
                best = max(fitting, key=lambda place: self._score(cluster, who, place))
                placements.append(Placement(who.id, best.node.name, score=self._score(cluster, who, best)))
                cluster.add(who.id, who.demand, best)
            else:
                why = "; ".join(sorted(set(reasons.values()))) or "there are none"
                unplaceable.append(Unplaceable(who.id, reasons, f"0 of {len(reasons)} nodes fit: {why}"))
        return PlacementPlan(tuple(placements), tuple(unplaceable))

    def explain(self, snapshot: SchedulingSnapshot, pending: PendingInstance) -> Explanation:
        """Tell every rule's verdict on every node."""
        cluster = Cluster(snapshot)
        verdicts = tuple(
            Verdict(place.node.name, name, rule(cluster, pending, place))
            for place in cluster.places
            for name, rule in RULES.items()
        )
        failing = {verdict.node for verdict in verdicts if not verdict.passed}
        scores = {
            place.node.name: self._score(cluster, pending, place)
            for place in cluster.places
            if place.node.name not in failing
        }
        against = [f"{verdict.node}: {verdict.reason}" for verdict in verdicts if not verdict.passed]
        remedy = "" if scores else f"put right on {against[0]}" if against else "add a node"
        return Explanation(verdicts, scores, remedy)

    def _score(self, cluster: Cluster, who: PendingInstance, place: Place) -> float:
        """Give the share of the node that would be left free; nodes to avoid come last."""
        node = place.node
        cpu = (place.free_cpu - who.demand.cpu_millicores) / max(node.cpu_millicores, 1)
        memory = (place.free_memory - who.demand.memory_bytes) / max(node.memory_bytes, 1)
        score = cpu + memory * self._config.memory_weight
        for _, weight, ask in cluster.contributions.scores:
            score += weight * min(max(ask(who.demand, node), 0.0), 100.0)
        return score - 1e9 if node.name in who.avoid else score


def _first_reason(cluster: Cluster, who: PendingInstance, place: Place) -> str:
    return next((reason for rule in RULES.values() if (reason := rule(cluster, who, place))), "")
