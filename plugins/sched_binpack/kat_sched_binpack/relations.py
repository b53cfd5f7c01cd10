"""Who is near whom: counts of instances by place, kept true as instances come and go.

A *place* is a value of a node label, or the node itself. A :class:`Tally` counts, for each place, the instances that
some rule is about. There are three kinds: those with certain labels (affinity), those that themselves keep away from
certain labels (anti-affinity seen from the other side), and those of one workload (spread).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from kat_platform.interfaces.scheduler import Demand, SchedulableNode

Labels = frozenset[tuple[str, str]]
Handle = tuple[str, ...]
"""What demands and subjects are filed under, so that neither has to be compared with all of the other."""


class Topology:
    """Numbers the places of each topology key. A node without the label is in the last place, which is nowhere."""

    def __init__(self, nodes: list[SchedulableNode]) -> None:
        self._nodes = nodes
        self._places: dict[str, tuple[list[int], list[str]]] = {}

    def places(self, key: str) -> tuple[list[int], list[str]]:
        """Give each node's place, and the places' names; the number of names is the number of "nowhere"."""
        if key not in self._places:
            if key:
                values = [node.labels.get(key) for node in self._nodes]
                names = sorted({value for value in values if value is not None})
                number = {name: n for n, name in enumerate(names)}
                self._places[key] = ([len(names) if v is None else number[v] for v in values], names)
            else:
                self._places[key] = (list(range(len(self._nodes))), [node.name for node in self._nodes])
        return self._places[key]


@dataclass(frozen=True, slots=True)
class Subject:
    """Which instances a tally counts; ``workload`` is None where labels decide."""

    namespace: str
    labels: Labels
    key: str
    workload: str | None = None
    holds: bool = False
    """Whether it counts the instances that hold the anti-affinity term, instead of those it is about."""

    @property
    def handle(self) -> Handle:
        """What all that it speaks of is filed under: a workload, one label, or for lack of labels the namespace."""
        if self.workload is not None:
            return (self.namespace, "", "workload", self.workload)
        return (self.namespace, *min(self.labels)) if self.labels else (self.namespace,)

    def covers(self, demand: Demand) -> bool:
        """Tell whether instances of ``demand`` are counted."""
        if demand.namespace != self.namespace:
            return False
        if self.holds:
            return any(
                t.topology_key == self.key and labels_of(t.labels) == self.labels for t in demand.anti_affinity.required
            )
        if self.workload is not None:
            return demand.workload == self.workload
        return self.speaks_of(demand)

    def speaks_of(self, demand: Demand) -> bool:
        """Tell whether ``demand`` has the labels and the namespace."""
        return demand.namespace == self.namespace and all(demand.labels.get(k) == v for k, v in self.labels)


@dataclass(slots=True, eq=False)
class Tally:
    """How many instances of a subject each place has; a place with none, and "nowhere", has no entry."""

    subject: Subject
    place_of: list[int]
    names: list[str]
    counts: dict[int, int] = field(default_factory=dict)
    total: int = 0

    @property
    def nowhere(self) -> int:
        """The place of nodes without the label."""
        return len(self.names)

    @property
    def wide(self) -> bool:
        """Whether a place may be more than one node."""
        return bool(self.subject.key)

    def step(self, i: int, by: int) -> None:
        """Count ``by`` more instances on node ``i``."""
        place = self.place_of[i]
        if place == self.nowhere:
            return
        count = self.counts.get(place, 0) + by
        self.total += by
        if count:
            self.counts[place] = count
        else:
            self.counts.pop(place, None)


@dataclass(slots=True, eq=False)
class _Seen:
    demand: Demand
    nodes: dict[int, int] = field(default_factory=dict)
    tallies: list[Tally] = field(default_factory=list)


class Relations:
    """All tallies of one call. One is made when first asked for, and kept true from then on."""

    def __init__(self, topology: Topology) -> None:
        self._topology = topology
        self._seen: dict[str, _Seen] = {}
        self._seen_under: dict[Handle, list[_Seen]] = {}
        self._tallies: dict[Subject, Tally] = {}
        self._counting_under: dict[Handle, list[Tally]] = {}
        self._holding_under: dict[Handle, list[Tally]] = {}

    def note(self, demand: Demand, i: int, step: int) -> None:
        """Take in that node ``i`` has ``step`` instances of ``demand`` more."""
        seen = self._seen.get(demand.key)
        if seen is None:
            seen = self._meet(demand)
        seen.nodes[i] = seen.nodes.get(i, 0) + step
        for tally in seen.tallies:
            tally.step(i, step)

    def _meet(self, demand: Demand) -> _Seen:
        seen = self._seen[demand.key] = _Seen(demand)
        for handle in _handles(demand):
            self._seen_under.setdefault(handle, []).append(seen)
            seen.tallies += [t for t in self._counting_under.get(handle, ()) if t.subject.covers(demand)]
        held = (
            Subject(demand.namespace, labels_of(term.labels), term.topology_key, holds=True)
            for term in demand.anti_affinity.required
        )
        seen.tallies += [self._tally(subject) for subject in dict.fromkeys(held)]
        return seen

    def matching(self, namespace: str, labels: Mapping[str, str], key: str) -> Tally:
        """Give the tally of the instances in ``namespace`` that have ``labels``, by ``key``."""
        return self._tally(Subject(namespace, labels_of(labels), key))

    def workload(self, demand: Demand, key: str) -> Tally:
        """Give the tally of the instances of the demand's workload, all revisions, by ``key``."""
        return self._tally(Subject(demand.namespace, frozenset(), key, workload=demand.workload))

    def keeping_away_from(self, demand: Demand) -> list[Tally]:
        """Give the tallies of instances whose own anti-affinity is about ``demand`` (its own included)."""
        if demand.key not in self._seen:
            self._meet(demand)
        if not self._holding_under:
            return []
        near = (tally for handle in _handles(demand) for tally in self._holding_under.get(handle, ()))
        return [tally for tally in near if tally.subject.speaks_of(demand)]

    def _tally(self, subject: Subject) -> Tally:
        tally = self._tallies.get(subject)
        if tally is None:
            tally = self._tallies[subject] = Tally(subject, *self._topology.places(subject.key))
            filed = self._holding_under if subject.holds else self._counting_under
            filed.setdefault(subject.handle, []).append(tally)
            for seen in () if subject.holds else self._seen_under.get(subject.handle, ()):
                if subject.covers(seen.demand):
                    seen.tallies.append(tally)
                    for i, count in seen.nodes.items():
                        tally.step(i, count)
        return tally


def _handles(demand: Demand) -> list[Handle]:
    """Give everything a demand is filed under; each subject that speaks of it has exactly one of these."""
    space = demand.namespace
    labels = [(space, key, value) for key, value in demand.labels.items()]
    return [(space,), (space, "", "workload", demand.workload), *labels]


def labels_of(labels: Mapping[str, str]) -> Labels:
    """Give labels in a form that can be compared and hashed."""
    return frozenset(labels.items())
