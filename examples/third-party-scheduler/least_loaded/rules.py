"""What KAT's scheduler contract calls hard rules: each gives a reason against a node, or nothing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from kat_platform.interfaces.scheduler import (
    AffinityTerm,
    Demand,
    Gpu,
    GpuRequest,
    PendingInstance,
    SchedulableNode,
    SchedulingSnapshot,
    TaintEffect,
)


@dataclass(slots=True)
class Place:
    """A node and what is on it."""

    node: SchedulableNode
    free_cpu: int
    free_memory: int
    residents: dict[str, Demand] = field(default_factory=dict)

    def topology(self, key: str) -> str | None:
        """Give the value of a topology label; the node's name without a key."""
        return self.node.labels.get(key) if key else self.node.name


class Cluster:
    """All nodes, by name, and what is on them."""

    def __init__(self, snapshot: SchedulingSnapshot) -> None:
        self.contributions = snapshot.contributions
        nodes = sorted(snapshot.nodes, key=lambda node: node.name)
        self.places = [Place(node, node.cpu_millicores, node.memory_bytes) for node in nodes]
        self.everybody: list[tuple[Demand, Place]] = []
        self.hermits: list[tuple[Demand, Place]] = []
        by_name = {place.node.name: place for place in self.places}
        for placed in snapshot.placed:
            if placed.node in by_name:
                self.add(placed.id, placed.demand, by_name[placed.node])

    def add(self, instance_id: str, demand: Demand, place: Place) -> None:
        """Put an instance on a node."""
        place.free_cpu -= demand.cpu_millicores
        place.free_memory -= demand.memory_bytes
        place.residents[instance_id] = demand
        self.everybody.append((demand, place))
        if demand.anti_affinity.required:
            self.hermits.append((demand, place))


def eligible(cluster: Cluster, who: PendingInstance, place: Place) -> str:
    """Refuse nodes that are away, closed, or another than the one it belongs on."""
    node = place.node
    if not node.ready:
        return "is not ready"
    if node.cordoned:
        return "is cordoned"
    if who.only_node not in (None, node.name) or who.demand.pinned_to not in (None, node.name):
        return f"is not {who.only_node or who.demand.pinned_to}, where it belongs"
    return ""


def labels(cluster: Cluster, who: PendingInstance, place: Place) -> str:
    """Refuse nodes without the labels selected."""
    missing = [f"{k}={v}" for k, v in who.demand.node_selector.items() if place.node.labels.get(k) != v]
    return f"lacks label {', '.join(missing)}" if missing else ""


def taints(cluster: Cluster, who: PendingInstance, place: Place) -> str:
    """Refuse nodes with a hard taint that is not tolerated."""
    for taint in place.node.taints:
        soft = taint.effect is TaintEffect.PREFER_NO_SCHEDULE
        if not soft and not any(toleration.tolerates(taint) for toleration in who.demand.tolerations):
            return f"has taint {taint.key}"
    return ""


def room(cluster: Cluster, who: PendingInstance, place: Place) -> str:
    """Refuse nodes without the cpu, memory, slot or ports."""
    demand = who.demand
    if demand.cpu_millicores and demand.cpu_millicores > place.free_cpu:
        return f"lacks {demand.cpu_millicores - place.free_cpu}m cpu"
    if demand.memory_bytes and demand.memory_bytes > place.free_memory:
        return f"lacks {demand.memory_bytes - place.free_memory} bytes of memory"
    if len(place.residents) >= place.node.max_instances:
        return "runs as many instances as it may"
    wanted = set(demand.host_ports)
    if wanted and any(wanted & set(other.host_ports) for other in place.residents.values()):
        return "has the host port taken"
    return ""


def gpus(cluster: Cluster, who: PendingInstance, place: Place) -> str:
    """Refuse nodes without enough GPUs that nobody has or was promised."""
    request = who.demand.gpu
    if request is None:
        return ""
    free = sorted((gpu for gpu in place.node.gpus if gpu.used_by is None), key=lambda gpu: (gpu.vram_mb, gpu.id))
    for name, other in place.residents.items():
        if other.gpu is not None:
            has = sum(gpu.used_by == name for gpu in place.node.gpus)
            for gpu in [gpu for gpu in free if _suits(gpu, other.gpu)][: max(other.gpu.count - has, 0)]:
                free.remove(gpu)
    left = sum(_suits(gpu, request) for gpu in free)
    return f"has {left} of {request.count} GPUs" if left < request.count else ""


def _suits(gpu: Gpu, request: GpuRequest) -> bool:
    return request.driver in ("any", gpu.driver) and gpu.vram_mb >= request.min_vram_mb


def company(cluster: Cluster, who: PendingInstance, place: Place) -> str:
    """Refuse nodes away from required company, or near unwanted company, whichever side does not want it."""
    demand = who.demand
    for term in demand.affinity.required:
        near = [other.topology(term.topology_key) for d, other in cluster.everybody if _speaks(term, demand, d)]
        first = _speaks(term, demand, demand) and all(where is None for where in near)
        here = place.topology(term.topology_key)
        if here is None or (here not in near and not first):
            return "is not near what it must be near"
    for term in demand.anti_affinity.required:
        if any(_speaks(term, demand, d) and _together(term, place, other) for d, other in cluster.everybody):
            return "is too near what it must keep from"
    for hermit, other in cluster.hermits:
        if any(_speaks(t, hermit, demand) and _together(t, place, other) for t in hermit.anti_affinity.required):
            return "has an instance near that keeps away from it"
    return ""


def _speaks(term: AffinityTerm, holder: Demand, other: Demand) -> bool:
    return holder.namespace == other.namespace and all(other.labels.get(k) == v for k, v in term.labels.items())


def _together(term: AffinityTerm, one: Place, other: Place) -> bool:
    here = one.topology(term.topology_key)
    return here is not None and here == other.topology(term.topology_key)


def spread(cluster: Cluster, who: PendingInstance, place: Place) -> str:
    """Refuse nodes whose place would get too far ahead of the other places that are open."""
    rule, demand = who.demand.spread, who.demand
    if rule is None:
        return ""
    lasting = (eligible, labels, taints)
    open_places = [other for other in cluster.places if not any(ask(cluster, who, other) for ask in lasting)]
    counts = {key: 0 for other in open_places if (key := other.topology(rule.topology_key)) is not None}
    for other_demand, other in cluster.everybody:
        key = other.topology(rule.topology_key)
        same = (other_demand.namespace, other_demand.workload) == (demand.namespace, demand.workload)
        if same and key is not None and key in counts:
            counts[key] += 1
    here = place.topology(rule.topology_key)
    if here is None or here not in counts or counts[here] + 1 - min(counts.values()) > rule.max_skew:
        return "would be uneven"
    return ""


def contributed(cluster: Cluster, who: PendingInstance, place: Place) -> str:
    """Refuse nodes that another plugin's filter refuses."""
    for name, ask in cluster.contributions.filters:
        reason = ask(who.demand, place.node)
        if reason is not None:
            return reason or f"is refused by {name}"
    return ""


RULES: dict[str, Callable[[Cluster, PendingInstance, Place], str]] = {
    "eligible": eligible,
    "labels": labels,
    "taints": taints,
    "room": room,
    "gpus": gpus,
    "company": company,
    "spread": spread,
    "contributed": contributed,
}
"""Every rule, in the order in which a node's first shortcoming is looked for."""
