"""Whether a node will do, and if not why not and what would change that: one function for each filter.

:meth:`Request.fits` is the quick answer the search uses; :data:`FILTERS` give the same answer with words. That the two
agree is property-tested.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from kat_platform.interfaces.scheduler import AffinityTerm, Demand, PendingInstance, Taint
from kat_sched_binpack import amounts
from kat_sched_binpack.fleet import Fleet, hard_taint
from kat_sched_binpack.relations import Tally
from kat_sched_binpack.rules import Apart, Even, Near, Rule, Wish


@dataclass(frozen=True, slots=True)
class Against:
    """Why a node will not do: ``kind`` names the shortcoming for a summary (``lacks memory``)."""

    filter: str
    kind: str
    reason: str
    remedy: str = ""
    short_by: float = 0.0
    """For a shortage, the share of what was asked that is missing (0 to 1): the smaller, the nearer to fitting."""


class Request:
    """What one kind of pending instance asks of one fleet. Cheap to make; derived parts are made when needed."""

    def __init__(self, fleet: Fleet, demand: Demand, only: str | None = None, avoid: frozenset[str] = frozenset()):
        self.fleet = fleet
        self.demand = demand
        self.only = only
        self.avoid = avoid
        self.cpu = demand.cpu_millicores
        self.memory = demand.memory_bytes
        self.static = fleet.static(demand)
        self.picky = bool(demand.host_ports or demand.gpu is not None or fleet.contributions.filters)
        self.rules = self._rules()
        self.wishes: list[Wish] = self._wishes()
        """The preferred terms, their weights scaled so that all of them together are 100."""

    @classmethod
    def of(cls, fleet: Fleet, pending: PendingInstance) -> Request:
        """Make the request of one pending instance."""
        return cls(fleet, pending.demand, pending.only_node, pending.avoid)

    @property
    def single(self) -> str | None:
        """The one node that can be meant, if it is only one."""
        return self.only if self.only is not None else self.demand.pinned_to

    def _rules(self) -> list[Rule]:
        demand, relations = self.demand, self.fleet.relations
        rules: list[Rule] = []
        for term in demand.affinity.required:
            tally = relations.matching(demand.namespace, term.labels, term.topology_key)
            rules.append(Near(tally, tally.subject.covers(demand)))
        for term in demand.anti_affinity.required:
            rules.append(Apart(relations.matching(demand.namespace, term.labels, term.topology_key)))
        rules.extend(Apart(tally) for tally in relations.keeping_away_from(demand))
        if demand.spread is not None:
            tally = relations.workload(demand, demand.spread.topology_key)
            rules.append(Even(tally, demand.spread.max_skew, self._open_places(tally)))
        return rules

    def _open_places(self, tally: Tally) -> frozenset[int]:
        if self.single is None:
            return self.fleet.open_places(self.demand, tally)
        i = self.fleet.index.get(self.single)
        return frozenset() if i is None or not self.static[i] else frozenset({tally.place_of[i]}) - {tally.nowhere}

    def _wishes(self) -> list[Wish]:
        demand, relations = self.demand, self.fleet.relations
        terms: list[tuple[AffinityTerm, int]] = [(term, 1) for term in demand.affinity.preferred]
        terms += [(term, -1) for term in demand.anti_affinity.preferred]
        if not terms:
            return []
        whole = sum(max(term.weight, 1) for term, _ in terms)
        return [
            Wish(
                relations.matching(demand.namespace, term.labels, term.topology_key),
                sign * 100.0 * max(term.weight, 1) / whole,
            )
            for term, sign in terms
        ]

    def fits(self, i: int) -> bool:
        """Tell whether node ``i`` takes one more instance now."""
        fleet = self.fleet
        if not self.static[i] or fleet.free_slots[i] < 1:
            return False
        if (self.cpu and self.cpu > fleet.free_cpu[i]) or (self.memory and self.memory > fleet.free_memory[i]):
            return False
        if self.rules and not all(rule.allows(rule.tally.place_of[i]) for rule in self.rules):
            return False
        single = self.single
        if single is not None and (fleet.nodes[i].name != single or self.demand.pinned_to not in (None, single)):
            return False
        return not self.picky or self.suits(i)

    def suits(self, i: int) -> bool:
        """Tell whether node ``i`` passes what is only asked of the best: ports, GPUs, contributed filters."""
        demand, fleet = self.demand, self.fleet
        if demand.host_ports and not fleet.ports.get(i, {}).keys().isdisjoint(demand.host_ports):
            return False
        if demand.gpu is not None and fleet.free_gpus(i, demand.gpu) < demand.gpu.count:
            return False
        return not fleet.contributions.filters or fleet.opinion(demand, i) is None

    def placed_on(self, i: int) -> bool:
        """Take in that an instance of this request went to node ``i``; tell whether other nodes' answers may differ."""
        if not self.rules and not self.wishes:
            return False
        stale = [rule.stale_after(rule.tally.place_of[i]) for rule in self.rules]
        stale += [wish.stale_after(self.demand, wish.tally.place_of[i]) for wish in self.wishes]
        return any(stale)

    def reset(self) -> None:
        """Take in that instances were taken away."""
        for rule in self.rules:
            rule.reset()


def ready(request: Request, i: int) -> Against | None:
    """Against a node that is not ready."""
    node = request.fleet.nodes[i]
    if node.ready:
        return None
    reason = f"is not ready: {node.not_ready_reason}" if node.not_ready_reason else "is not ready"
    return Against("ready", "is not ready", reason, f"bring {node.name} back: see node describe {node.name}")


def cordon(request: Request, i: int) -> Against | None:
    """Against a node that takes nothing new."""
    node = request.fleet.nodes[i]
    if not node.cordoned:
        return None
    return Against("cordon", "is cordoned", "is cordoned", f"node uncordon {node.name}")


def pin(request: Request, i: int) -> Against | None:
    """Against every node but the one the data, or the daemon, belongs to."""
    node, pinned = request.fleet.nodes[i], request.demand.pinned_to
    if request.only is not None and node.name != request.only:
        return Against("pin", "is another node", f"belongs on node {request.only} only")
    if pinned is not None and node.name != pinned:
        why = request.demand.pinned_reason or "its data is there"
        remedy = f"move its volume with volume move, to {node.name}"
        return Against("pin", "is not where its data is", f"is pinned to node {pinned}: {why}", remedy)
    return None


def selector(request: Request, i: int) -> Against | None:
    """Against a node without the labels asked for."""
    node = request.fleet.nodes[i]
    wanted = sorted(f"{k}={v}" for k, v in request.demand.node_selector.items() if node.labels.get(k) != v)
    if not wanted:
        return None
    text = ", ".join(wanted)
    return Against("selector", f"lacks label {text}", f"lacks label {text}", f"add label {text} to {node.name}")


def taints(request: Request, i: int) -> Against | None:
    """Against a node with a taint that is not tolerated."""
    node = request.fleet.nodes[i]
    taint = hard_taint(node, request.demand)
    if not isinstance(taint, Taint):
        return None
    text = f"{taint.key}={taint.value}:{taint.effect}" if taint.value else f"{taint.key}:{taint.effect}"
    remedy = f"tolerate taint {text}, or remove it from {node.name}"
    return Against("taints", f"has taint {text}", f"has taint {text}, which is not tolerated", remedy)


def resources(request: Request, i: int) -> Against | None:
    """Against a node without the room: CPU, memory, and how many instances it may run."""
    fleet, node = request.fleet, request.fleet.nodes[i]
    lacks: list[str] = []
    reasons: list[str] = []
    asks: list[str] = []
    short = 0.0
    free, asked = fleet.free_memory[i], request.memory
    if asked and asked > free:
        lacks.append("memory")
        reasons.append(f"lacks memory: {amounts.memory(free)} free, {amounts.memory(asked)} asked")
        asks.append(f"{amounts.memory_up(asked - max(free, 0))} less memory")
        short = (asked - max(free, 0)) / asked
    free, asked = fleet.free_cpu[i], request.cpu
    if asked and asked > free:
        lacks.append("cpu")
        reasons.append(f"lacks cpu: {amounts.cpu(free)} free, {amounts.cpu(asked)} asked")
        asks.append(f"{amounts.cpu(asked - max(free, 0))} less cpu")
        short = max(short, (asked - max(free, 0)) / asked)
    remedy = f"ask for {' and '.join(asks)}, or free as much on {node.name}" if asks else ""
    if fleet.free_slots[i] < 1:
        lacks.append("room for another instance")
        reasons.append(f"runs as many instances as it may ({node.max_instances})")
        stop = f"stop an instance on {node.name}, or raise its maxInstances"
        remedy = f"{remedy}, and {stop}" if remedy else stop
    if not lacks:
        return None
    return Against("resources", f"lacks {' and '.join(lacks)}", "; ".join(reasons), remedy, short)


def gpu(request: Request, i: int) -> Against | None:
    """Against a node without enough free GPUs of the kind."""
    wanted = request.demand.gpu
    if wanted is None:
        return None
    free = request.fleet.free_gpus(i, wanted)
    if free >= wanted.count:
        return None
    kind = "" if wanted.driver == "any" else f" {wanted.driver}"
    size = f" with {wanted.min_vram_mb} MB" if wanted.min_vram_mb else ""
    what = f"{wanted.count}{kind} GPU{'s' if wanted.count > 1 else ''}{size}"
    remedy = f"ask for {wanted.count - free} GPU less" if free else f"free {what} on {request.fleet.nodes[i].name}"
    return Against("gpu", "lacks GPUs", f"lacks GPUs: {free} free, {what} asked", remedy)


def ports(request: Request, i: int) -> Against | None:
    """Against a node where a host port is taken."""
    taken = sorted(request.fleet.ports.get(i, {}).keys() & set(request.demand.host_ports))
    if not taken:
        return None
    text = ", ".join(f"{port}/{protocol}" for port, protocol in taken)
    remedy = f"choose another host port than {text}"
    return Against("ports", f"has host port {text} taken", f"host port {text} is taken", remedy)


def _between(request: Request, i: int, name: str, kinds: type[Near] | type[Apart] | type[Even]) -> Against | None:
    for rule in request.rules:
        if isinstance(rule, kinds) and not rule.allows(rule.tally.place_of[i]):
            return _broken(request, i, name, rule)
    return None


def _broken(request: Request, i: int, name: str, rule: Near | Apart | Even) -> Against:
    subject, node = rule.tally.subject, request.fleet.nodes[i]
    place = node.name if not subject.key else f"{subject.key}={node.labels.get(subject.key, '')}"
    whom = ", ".join(f"{k}={v}" for k, v in sorted(subject.labels))
    if not isinstance(rule, Apart) and subject.key and subject.key not in node.labels:
        missing = f"lacks label {subject.key}"
        return Against(name, missing, f"{missing}, which {name} needs", f"add label {subject.key} to {node.name}")
    if isinstance(rule, Near):
        reason = f"no instance with {whom} is in {place}"
        remedy = f"place an instance with {whom} in {place} first"
        return Against(name, "is not near what it must be near", reason, remedy)
    if isinstance(rule, Even):
        here = rule.tally.counts.get(rule.tally.place_of[i], 0)
        reason = f"{place} has {here} of the workload, the emptiest place {rule.floor}: maxSkew is {rule.max_skew}"
        remedy = f"make room in the emptiest place, or raise maxSkew to {here + 1 - rule.floor}"
        return Against(name, "would be uneven", reason, remedy)
    if subject.holds and not _own(request, rule):
        reason = f"an instance in {place} keeps away from {whom}"
    else:
        reason = f"an instance with {whom} is in {place}"
    remedy = f"add a node without such an instance, or move it from {place}"
    return Against(name, "is too near what it must keep from", reason, remedy)


def _own(request: Request, rule: Apart) -> bool:
    return rule.tally.subject.covers(request.demand)


def affinity(request: Request, i: int) -> Against | None:
    """Against a node that is not where required company is."""
    return _between(request, i, "affinity", Near)


def anti_affinity(request: Request, i: int) -> Against | None:
    """Against a node that is where unwanted company is, whichever side does not want it."""
    return _between(request, i, "antiAffinity", Apart)


def spread(request: Request, i: int) -> Against | None:
    """Against a node whose place would get too far ahead of the others."""
    return _between(request, i, "spread", Even)


def contributed(request: Request, i: int) -> Against | None:
    """Against a node that a plugin's own filter refuses."""
    if not request.fleet.contributions.filters:
        return None
    answer = request.fleet.opinion(request.demand, i)
    if answer is None:
        return None
    return Against(answer[0], f"is refused by {answer[0]}", answer[1] or f"refused by {answer[0]}")


FILTERS: tuple[tuple[str, Callable[[Request, int], Against | None]], ...] = (
    ("ready", ready),
    ("cordon", cordon),
    ("pin", pin),
    ("selector", selector),
    ("taints", taints),
    ("resources", resources),
    ("gpu", gpu),
    ("ports", ports),
    ("affinity", affinity),
    ("antiAffinity", anti_affinity),
    ("spread", spread),
    ("contributed", contributed),
)
"""Every filter, in the order in which a node's first shortcoming is looked for: the most lasting first."""


def first_against(request: Request, i: int) -> Against | None:
    """Give the first thing that is against node ``i``; None when it will do."""
    for _, ask in FILTERS:
        against = ask(request, i)
        if against is not None:
            return against
    return None
