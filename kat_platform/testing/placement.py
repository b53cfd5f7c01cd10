"""The placement rules of the scheduler contract, written the plainest way there is: slow, and easy to check by eye.

The fake scheduler places by it, and the conformance kit judges the plans of other schedulers by it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from kat_platform.interfaces.scheduler import (
    AffinityTerm,
    Demand,
    Gpu,
    GpuRequest,
    PendingInstance,
    PlacedInstance,
    SchedulableNode,
    SchedulingSnapshot,
    TaintEffect,
)


def against(snapshot: SchedulingSnapshot, present: Sequence[PlacedInstance], who: PendingInstance, name: str) -> str:
    """Tell the first thing that is against placing ``who`` on node ``name``; empty when it will do.

    ``present`` is who is placed now; it stands in for ``snapshot.placed``.
    """
    node = next(node for node in snapshot.nodes if node.name == name)
    here = [placed for placed in present if placed.node == name]
    return (
        unsuited(who, node)
        or _lacking(who.demand, node, here)
        or _unlawful(snapshot, present, who, node)
        or _contributed(snapshot, who.demand, node)
    )


def _contributed(snapshot: SchedulingSnapshot, demand: Demand, node: SchedulableNode) -> str:
    for name, ask in snapshot.contributions.filters:
        reason = ask(demand, node)
        if reason is not None:
            return reason or f"is refused by {name}"
    return ""


def unsuited(who: PendingInstance, node: SchedulableNode) -> str:
    """Tell what about the node alone is against it: readiness, cordon, pin, labels, taints."""
    demand = who.demand
    if not node.ready:
        return "is not ready"
    if node.cordoned:
        return "is cordoned"
    if who.only_node not in (None, node.name) or demand.pinned_to not in (None, node.name):
        return "is another node than the one it belongs on"
    if any(node.labels.get(key) != value for key, value in demand.node_selector.items()):
        return "lacks a label"
    hard = [taint for taint in node.taints if taint.effect is not TaintEffect.PREFER_NO_SCHEDULE]
    if any(not any(toleration.tolerates(taint) for toleration in demand.tolerations) for taint in hard):
        return "has a taint that is not tolerated"
    return ""


def _lacking(demand: Demand, node: SchedulableNode, here: Sequence[PlacedInstance]) -> str:
    cpu = sum(placed.demand.cpu_millicores for placed in here) + demand.cpu_millicores
    memory = sum(placed.demand.memory_bytes for placed in here) + demand.memory_bytes
    if demand.cpu_millicores and cpu > node.cpu_millicores:
        return "lacks cpu"
    if demand.memory_bytes and memory > node.memory_bytes:
        return "lacks memory"
    if len(here) >= node.max_instances:
        return "runs as many instances as it may"
    if any(set(placed.demand.host_ports) & set(demand.host_ports) for placed in here):
        return "has the host port taken"
    if demand.gpu is not None and _free_gpus(node, here, demand.gpu) < demand.gpu.count:
        return "lacks GPUs"
    return ""


def _free_gpus(node: SchedulableNode, here: Sequence[PlacedInstance], request: GpuRequest) -> int:
    free = sorted((gpu for gpu in node.gpus if gpu.used_by is None), key=lambda gpu: (gpu.vram_mb, gpu.id))
    for placed in here:
        if placed.demand.gpu is not None:
            named = sum(gpu.used_by == placed.id for gpu in node.gpus)
            for gpu in [gpu for gpu in free if _suits(gpu, placed.demand.gpu)][: placed.demand.gpu.count - named]:
                free.remove(gpu)
    return sum(_suits(gpu, request) for gpu in free)


def _suits(gpu: Gpu, request: GpuRequest) -> bool:
    return request.driver in ("any", gpu.driver) and gpu.vram_mb >= request.min_vram_mb


def place(node: SchedulableNode, key: str) -> str | None:
    """Give the node's place by topology ``key``: that label's value, or the node itself; None without the label."""
    return node.labels.get(key) if key else node.name


def matches(term: AffinityTerm, holder: Demand, other: Demand) -> bool:
    """Tell whether ``holder``'s term is about instances of ``other``."""
    return other.namespace == holder.namespace and all(other.labels.get(k) == v for k, v in term.labels.items())


def _unlawful(
    snapshot: SchedulingSnapshot, present: Sequence[PlacedInstance], who: PendingInstance, node: SchedulableNode
) -> str:
    demand, nodes = who.demand, {node.name: node for node in snapshot.nodes}
    known = [(placed.demand, nodes[placed.node]) for placed in present if placed.node in nodes]
    for term in demand.affinity.required:
        company = [place(at, term.topology_key) for other, at in known if matches(term, demand, other)]
        first = matches(term, demand, demand) and not [where for where in company if where is not None]
        where = place(node, term.topology_key)
        if where is None or (where not in company and not first):
            return "is not near what it must be near"
    for term in demand.anti_affinity.required:
        if _together(node, term, (at for other, at in known if matches(term, demand, other))):
            return "is too near what it must keep from"
    for other, at in known:
        if any(_together(node, term, [at]) for term in other.anti_affinity.required if matches(term, other, demand)):
            return "has an instance near that keeps away from it"
    return _uneven(snapshot, known, who, node)


def _together(node: SchedulableNode, term: AffinityTerm, others: Iterable[SchedulableNode]) -> bool:
    where = place(node, term.topology_key)
    return where is not None and any(place(other, term.topology_key) == where for other in others)


def _uneven(
    snapshot: SchedulingSnapshot,
    known: Sequence[tuple[Demand, SchedulableNode]],
    who: PendingInstance,
    node: SchedulableNode,
) -> str:
    spread, demand = who.demand.spread, who.demand
    if spread is None:
        return ""
    counts = {place(other, spread.topology_key): 0 for other in snapshot.nodes if not unsuited(who, other)}
    counts.pop(None, None)
    for other, at in known:
        where = place(at, spread.topology_key)
        if (other.namespace, other.workload) == (demand.namespace, demand.workload) and where in counts:
            counts[where] += 1
    where = place(node, spread.topology_key)
    if where not in counts or counts[where] + 1 - min(counts.values()) > spread.max_skew:
        return "would be uneven"
    return ""
