"""Scheduler: which node each pending instance goes to. A pure function over an immutable snapshot.

``schedule`` must not do I/O, keep state between calls that changes answers, or read a clock: the same input gives
the same plan. It is called in a worker thread, so it must not touch the event loop. All amounts are integers: CPU
in millicores, memory in bytes.

The host checks every plan before it commits it (fit, eligibility of the node); a plan that breaks a hard rule is
refused as the plugin's fault and nothing of it is committed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol, runtime_checkable

from kat_platform.interfaces.driver import Driver


class TaintEffect(StrEnum):
    """What a taint does to instances that do not tolerate it."""

    NO_SCHEDULE = "NoSchedule"
    PREFER_NO_SCHEDULE = "PreferNoSchedule"
    NO_EXECUTE = "NoExecute"


@dataclass(frozen=True, slots=True)
class Taint:
    """A mark on a node that keeps instances away unless they tolerate it."""

    key: str
    value: str = ""
    effect: TaintEffect = TaintEffect.NO_SCHEDULE


@dataclass(frozen=True, slots=True)
class Toleration:
    """Lets an instance onto nodes with matching taints; empty ``key`` or ``effect`` matches all."""

    key: str = ""
    operator: str = "Equal"
    """``Equal`` (key and value) or ``Exists`` (key only)."""
    value: str = ""
    effect: TaintEffect | None = None

    def tolerates(self, taint: Taint) -> bool:
        """Tell whether this toleration covers ``taint``."""
        if self.effect is not None and self.effect != taint.effect:
            return False
        if self.key and self.key != taint.key:
            return False
        return self.operator == "Exists" or (bool(self.key) and self.value == taint.value)


@dataclass(frozen=True, slots=True)
class AffinityTerm:
    """Be (or, as anti-affinity, do not be) where instances with these labels are, by topology.

    Two nodes are in the same place when they have the same value of label ``topology_key``; an empty key is the
    node itself. Only instances of the same namespace count.
    """

    labels: Mapping[str, str]
    topology_key: str = ""
    weight: int = 0
    """1 to 100 for a preferred term; 0 for a required one."""


@dataclass(frozen=True, slots=True)
class Affinity:
    """Required and preferred terms."""

    required: tuple[AffinityTerm, ...] = ()
    preferred: tuple[AffinityTerm, ...] = ()


@dataclass(frozen=True, slots=True)
class Spread:
    """Keep the workload's instances even over the values of a node label: at most ``max_skew`` apart."""

    topology_key: str
    max_skew: int = 1


@dataclass(frozen=True, slots=True)
class GpuRequest:
    """GPUs wanted: ``driver`` is ``any``, ``nvidia`` or ``amd``."""

    count: int
    driver: str = "any"
    min_vram_mb: int = 0


@dataclass(frozen=True, slots=True)
class Gpu:
    """One GPU of a node."""

    id: str
    driver: str
    vram_mb: int
    used_by: str | None = None
    """Instance that holds it."""


@dataclass(frozen=True, slots=True)
class Demand:
    """What every instance of one revision of a workload asks for: shared by all of them, so compared once.

    ``key`` identifies it: two demands with the same key are the same.
    """

    key: str
    namespace: str
    workload: str
    labels: Mapping[str, str] = field(default_factory=dict)
    cpu_millicores: int = 0
    memory_bytes: int = 0
    gpu: GpuRequest | None = None
    node_selector: Mapping[str, str] = field(default_factory=dict)
    tolerations: tuple[Toleration, ...] = ()
    affinity: Affinity = Affinity()
    anti_affinity: Affinity = Affinity()
    spread: Spread | None = None
    priority: int = 0
    host_ports: tuple[tuple[int, str], ...] = ()
    """``(port, protocol)`` that the instance binds on its node."""
    pinned_to: str | None = None
    """The one node its data is on."""
    pinned_reason: str = ""
    image: str = ""


@dataclass(frozen=True, slots=True)
class PendingInstance:
    """An instance that needs a node. ``only_node`` is set for daemons: that node or none."""

    id: str
    demand: Demand
    only_node: str | None = None
    avoid: frozenset[str] = frozenset()
    """Nodes on which this has failed lately: to be preferred last."""


@dataclass(frozen=True, slots=True)
class PlacedInstance:
    """An instance that already has a node and counts against its capacity."""

    id: str
    demand: Demand
    node: str
    movable: bool = True
    """Whether it may be moved at all: a daemon's instance belongs to its node."""


@dataclass(frozen=True, slots=True)
class SchedulableNode:
    """A node as the scheduler sees it. ``allocatable`` is before any instance is subtracted."""

    name: str
    cpu_millicores: int
    memory_bytes: int
    max_instances: int = 110
    ready: bool = True
    not_ready_reason: str = ""
    cordoned: bool = False
    labels: Mapping[str, str] = field(default_factory=dict)
    taints: tuple[Taint, ...] = ()
    gpus: tuple[Gpu, ...] = ()
    images: frozenset[str] = frozenset()
    """References of images present, where known."""
    zone_index: int = 0


@dataclass(frozen=True, slots=True)
class Contributions:
    """What hooks add: extra filters and scores, asked for each (demand, node); pure, may be called often.

    A filter gives ``None`` when the node will do, else the reason why not. A score is 0 to 100 times its weight.
    """

    filters: tuple[tuple[str, Callable[[Demand, SchedulableNode], str | None]], ...] = ()
    scores: tuple[tuple[str, float, Callable[[Demand, SchedulableNode], float]], ...] = ()


@dataclass(frozen=True, slots=True)
class SchedulingSnapshot:
    """Everything a scheduler may know, as of one revision of the store."""

    revision: int
    nodes: tuple[SchedulableNode, ...]
    placed: tuple[PlacedInstance, ...] = ()
    contributions: Contributions = Contributions()


@dataclass(frozen=True, slots=True)
class Verdict:
    """What one filter says of one node: ``reason`` is empty when it passes."""

    node: str
    filter: str
    reason: str = ""
    remedy: str = ""
    """The smallest change that would make it pass, where one can be named."""

    @property
    def passed(self) -> bool:
        """Whether the node will do as far as this filter goes."""
        return not self.reason


@dataclass(frozen=True, slots=True)
class Placement:
    """An instance and the node it goes to; ``preempts`` lists instances that must stop first."""

    instance_id: str
    node: str
    preempts: tuple[str, ...] = ()
    score: float = 0.0


@dataclass(frozen=True, slots=True)
class Unplaceable:
    """An instance no node will take: for each node the first reason against it."""

    instance_id: str
    reasons: Mapping[str, str]
    summary: str
    """One line, e.g. ``0 of 3 nodes fit: 2 lack memory (512Mi free, 1Gi asked), 1 is cordoned``."""


@dataclass(frozen=True, slots=True)
class PlacementPlan:
    """The answer: every pending instance is in exactly one of the two."""

    placements: tuple[Placement, ...] = ()
    unplaceable: tuple[Unplaceable, ...] = ()


@dataclass(frozen=True, slots=True)
class Explanation:
    """Every filter's verdict on every node for one demand, the scores of those that pass, and a remedy."""

    verdicts: tuple[Verdict, ...]
    scores: Mapping[str, float] = field(default_factory=dict)
    remedy: str = ""
    """The smallest change over all nodes that would make it fit, e.g. ``ask for 512Mi less memory``."""


@runtime_checkable
class Scheduler(Driver, Protocol):
    """Chooses nodes; see the module for purity."""

    def schedule(self, snapshot: SchedulingSnapshot, pending: tuple[PendingInstance, ...]) -> PlacementPlan:
        """Place the batch, highest priority first; the order within one priority is the scheduler's own.

        Never raises for lack of room.
        """

    def explain(self, snapshot: SchedulingSnapshot, pending: PendingInstance) -> Explanation:
        """Tell every filter's verdict on every node."""


@dataclass(frozen=True, slots=True)
class Move:
    """One step of a rebalance: an instance that would go from one node to another, and why."""

    instance_id: str
    source: str
    target: str
    reason: str = ""


@runtime_checkable
class Rebalances(Protocol):
    """A scheduler that can suggest moves of what is already placed."""

    def rebalance(self, snapshot: SchedulingSnapshot, *, max_moves: int) -> tuple[Move, ...]:
        """Suggest at most ``max_moves`` moves, best first; empty when nothing is worth moving."""
