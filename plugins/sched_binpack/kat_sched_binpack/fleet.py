"""The compact, changing picture of the cluster that one call of the scheduler works on.

Nodes are numbered by name, so the lowest number is the stable tie-break. Every change goes through
:meth:`Fleet.add` and :meth:`Fleet.remove`, which keep all the counts true.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import cached_property

from kat_platform.interfaces.scheduler import Demand, GpuRequest, PlacedInstance, SchedulableNode, SchedulingSnapshot
from kat_sched_binpack import gpus
from kat_sched_binpack.relations import Relations, Tally, Topology

Profile = tuple[frozenset[tuple[str, str]], tuple[object, ...]]


class Fleet:
    """Free room of every node, and who is where."""

    def __init__(self, snapshot: SchedulingSnapshot) -> None:
        self.contributions = snapshot.contributions
        self.nodes: list[SchedulableNode] = sorted(snapshot.nodes, key=lambda node: node.name)
        self.index = {node.name: i for i, node in enumerate(self.nodes)}
        self.free_cpu = [node.cpu_millicores for node in self.nodes]
        self.free_memory = [node.memory_bytes for node in self.nodes]
        self.free_slots = [node.max_instances for node in self.nodes]
        self.cpu_unit = [100.0 / node.cpu_millicores if node.cpu_millicores > 0 else 0.0 for node in self.nodes]
        self.memory_unit = [100.0 / node.memory_bytes if node.memory_bytes > 0 else 0.0 for node in self.nodes]
        self.cpu_load = [0.0] * len(self.nodes)
        self.memory_load = [0.0] * len(self.nodes)
        self.even: set[int] = set()
        """Empty nodes that this batch is to fill evenly; see ``targets.py``."""
        self.reserve: set[int] = set()
        """Empty nodes that this batch should do without, as long as they are empty."""
        self.ports: dict[int, dict[tuple[int, str], int]] = {}
        self.gpu_holders: dict[int, dict[str, GpuRequest]] = {}
        self.evicted: set[str] = set()
        self.workloads: dict[tuple[str, str], dict[int, int]] = {}
        self.on_change: Callable[[int], None] | None = None
        self.relations = Relations(Topology(self.nodes))
        self._static: dict[Profile, bytearray] = {}
        self._open_places: dict[tuple[Profile, str], frozenset[int]] = {}
        self._opinions: dict[tuple[str, int], tuple[str, str] | None] = {}
        self._seat(snapshot.placed)

    def _seat(self, placed: Iterable[PlacedInstance]) -> None:
        index, cpu, memory, slots = self.index, self.free_cpu, self.free_memory, self.free_slots
        touched: set[int] = set()
        for instance in placed:
            i = index.get(instance.node)
            if i is None:
                continue  # its node is gone: it holds no room
            demand = instance.demand
            cpu[i] -= demand.cpu_millicores
            memory[i] -= demand.memory_bytes
            slots[i] -= 1
            touched.add(i)
            self._count(demand, i, 1)
            if demand.host_ports or demand.gpu is not None:
                self._hold(instance.id, demand, i)
        for i in touched:
            self._weigh(i)

    def add(self, instance_id: str, demand: Demand, i: int) -> None:
        """Take an instance's share out of node ``i``."""
        self.free_cpu[i] -= demand.cpu_millicores
        self.free_memory[i] -= demand.memory_bytes
        self.free_slots[i] -= 1
        self._count(demand, i, 1)
        if demand.host_ports or demand.gpu is not None:
            self._hold(instance_id, demand, i)
        self._weigh(i)
        self.reserve.discard(i)
        if self.on_change is not None:
            self.on_change(i)

    def fill_evenly(self, targets: list[int]) -> None:
        """Have this batch fill ``targets`` evenly, and the other empty nodes only when nothing else will do."""
        self.even = set(targets)
        unused = (i for i, node in enumerate(self.nodes) if self.free_slots[i] == node.max_instances)
        self.reserve = set(unused) - self.even

    def remove(self, instance_id: str, demand: Demand, i: int) -> None:
        """Give an instance's share back to node ``i``: the exact opposite of :meth:`add`."""
        self.free_cpu[i] += demand.cpu_millicores
        self.free_memory[i] += demand.memory_bytes
        self.free_slots[i] += 1
        self._count(demand, i, -1)
        if demand.host_ports or demand.gpu is not None:
            self._let_go(instance_id, demand, i)
        self._weigh(i)
        if self.on_change is not None:
            self.on_change(i)

    def _count(self, demand: Demand, i: int, step: int) -> None:
        counts = self.workloads.setdefault((demand.namespace, demand.workload), {})
        counts[i] = counts.get(i, 0) + step
        if not counts[i]:
            del counts[i]
        self.relations.note(demand, i, step)

    def _weigh(self, i: int) -> None:
        node = self.nodes[i]
        self.cpu_load[i] = (node.cpu_millicores - self.free_cpu[i]) * self.cpu_unit[i]
        self.memory_load[i] = (node.memory_bytes - self.free_memory[i]) * self.memory_unit[i]

    def _hold(self, instance_id: str, demand: Demand, i: int) -> None:
        for port in demand.host_ports:
            taken = self.ports.setdefault(i, {})
            taken[port] = taken.get(port, 0) + 1
        if demand.gpu is not None:
            self.gpu_holders.setdefault(i, {})[instance_id] = demand.gpu
            self.evicted.discard(instance_id)

    def _let_go(self, instance_id: str, demand: Demand, i: int) -> None:
        for port in demand.host_ports:
            self.ports[i][port] -= 1
            if not self.ports[i][port]:
                del self.ports[i][port]
        if demand.gpu is not None:
            del self.gpu_holders[i][instance_id]
            self.evicted.add(instance_id)

    def free_gpus(self, i: int, request: GpuRequest) -> int:
        """Count the GPUs of node ``i`` that ``request`` could use and nobody holds."""
        return gpus.available(self.nodes[i].gpus, self.gpu_holders.get(i, {}), self.evicted, request)

    def static(self, demand: Demand) -> bytearray:
        """Mark with 1 the nodes that will do by what never changes within a call: readiness, cordon, labels, taints."""
        profile = _profile(demand)
        marks = self._static.get(profile)
        if marks is None:
            marks = self._static[profile] = self._mark(demand)
        return marks

    def _mark(self, demand: Demand) -> bytearray:
        marks = bytearray(self._open)
        for i in self.tainted:
            if marks[i] and hard_taint(self.nodes[i], demand) is not None:
                marks[i] = 0
        for key, value in demand.node_selector.items():
            for i, node in enumerate(self.nodes):
                if marks[i] and node.labels.get(key) != value:
                    marks[i] = 0
        return marks

    def open_places(self, demand: Demand, tally: Tally) -> frozenset[int]:
        """Give the places that have at least one node marked by :meth:`static`."""
        key = (_profile(demand), tally.subject.key)
        if key not in self._open_places:
            places = {place for place, mark in zip(tally.place_of, self.static(demand), strict=True) if mark}
            self._open_places[key] = frozenset(places - {tally.nowhere})
        return self._open_places[key]

    def opinion(self, demand: Demand, i: int) -> tuple[str, str] | None:
        """Give the first contributed filter (its name and its reason) that is against the node, asked only once."""
        key = (demand.key, i)
        if key not in self._opinions:
            answers = ((name, ask(demand, self.nodes[i])) for name, ask in self.contributions.filters)
            self._opinions[key] = next(((name, reason) for name, reason in answers if reason is not None), None)
        return self._opinions[key]

    @cached_property
    def _open(self) -> bytes:
        return bytes(node.ready and not node.cordoned for node in self.nodes)

    @cached_property
    def tainted(self) -> list[int]:
        """Nodes that have any taint."""
        return [i for i, node in enumerate(self.nodes) if node.taints]

    @cached_property
    def images(self) -> dict[str, list[int]]:
        """For each image the nodes that have it."""
        found: dict[str, list[int]] = {}
        for i, node in enumerate(self.nodes):
            for image in node.images:
                found.setdefault(image, []).append(i)
        return found


def _profile(demand: Demand) -> Profile:
    return frozenset(demand.node_selector.items()), demand.tolerations


def hard_taint(node: SchedulableNode, demand: Demand) -> object | None:
    """Give the first taint of ``node`` that keeps ``demand`` away, if there is one."""
    for taint in node.taints:
        if taint.effect != "PreferNoSchedule" and not any(t.tolerates(taint) for t in demand.tolerations):
            return taint
    return None


def soft_taints(node: SchedulableNode, demand: Demand) -> int:
    """Count the taints of ``node`` that would rather not have ``demand``."""
    return sum(
        taint.effect == "PreferNoSchedule" and not any(t.tolerates(taint) for t in demand.tolerations)
        for taint in node.taints
    )
