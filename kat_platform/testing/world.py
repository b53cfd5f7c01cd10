"""A pure world for trying the leader: a state, changes applied to it, and nodes that do what a test lets them."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Network
from typing import Any

from kat_platform.interfaces.scheduler import TaintEffect
from kat_platform.interfaces.store import Change, ChangeType, Delete, Entry, Put
from kat_platform.leader.changes import LeaderChange
from kat_platform.leader.commit import operations_for
from kat_platform.leader.moving import tolerations_of, untolerated
from kat_platform.leader.placement import taints_of
from kat_platform.leader.reconcile import Reconciliation, reconcile
from kat_platform.model.cluster import ClusterConfiguration
from kat_platform.model.instance import Desired, InstanceRecord, InstanceStatus, Phase
from kat_platform.model.load_balancer import VirtualLoadBalancer
from kat_platform.model.meta import Metadata
from kat_platform.model.node import Capacity, NodeRecord, NodeReport
from kat_platform.model.revision import Revision, WorkloadRecord
from kat_platform.model.workload import Workload
from kat_platform.state import keys
from kat_platform.state.cluster import ClusterState, advance


def make_workload(name: str = "web", **spec: Any) -> Workload:
    """A valid workload; ``spec`` is in wire form."""
    body = {"type": "Service", "source": {"image": "localhost/app:1"}, **spec}
    return Workload.model_validate({"metadata": {"name": name}, "spec": body})


def make_balancer(name: str = "web", **spec: Any) -> VirtualLoadBalancer:
    """A load balancer with one port."""
    return VirtualLoadBalancer.model_validate({"metadata": {"name": name}, "spec": {"ports": [{"port": 80}], **spec}})


class World:
    """Holds a state and moves it forward as store, operator and nodes would."""

    def __init__(self, nodes: int = 1) -> None:
        self.state = ClusterState(configuration=ClusterConfiguration(metadata=Metadata(name="cluster")))
        self.now = 1000.0
        self.dead: set[str] = set()
        for index in range(nodes):
            name = f"n{index + 1}"
            subnet = IPv4Network((int(IPv4Network("10.100.0.0/16").network_address) + (index << 9), 23))
            self.put(keys.node(name), NodeRecord(name=name, subnet=subnet, created_at=float(index)).to_json())
            room = Capacity(cpu_millicores=64000, memory_bytes=2**36, instances=250)
            self.put(keys.node_report(name), NodeReport(capacity=room, allocatable=room).to_json())
            self.put(keys.alive(name), b"{}")

    # --- the store ----------------------------------------------------------------------------------------

    def put(self, key: str, value: bytes) -> None:
        """Write a key."""
        revision = self.state.revision + 1
        self.state = advance(self.state, [Change(ChangeType.PUT, Entry(key, value, revision, 1))], revision)

    def delete(self, key: str) -> None:
        """Remove a key."""
        revision = self.state.revision + 1
        self.state = advance(self.state, [Change(ChangeType.DELETE, Entry(key, b"", revision, 1))], revision)

    def commit(self, change: LeaderChange) -> None:
        """Do what a change says."""
        for operation in operations_for(self.state, change, now=self.now).operations:
            if isinstance(operation, Put):
                self.put(operation.key, operation.value)
            elif isinstance(operation, Delete) and operation.prefix:
                for key in [k for k in self.state.key_revisions if k.startswith(operation.key)]:
                    self.delete(key)
            elif isinstance(operation, Delete):
                self.delete(operation.key)

    # --- the operator ---------------------------------------------------------------------------------------

    def apply(self, document: Workload, lb: VirtualLoadBalancer | None = None, replicas: int | None = None) -> None:
        """Apply a document as the API would."""
        ns, name = document.metadata.namespace, document.metadata.name
        numbers = [n for (a, b, n) in self.state.revisions if (a, b) == (ns, name)]
        number = max(numbers, default=0) + 1
        revision = Revision(
            namespace=ns,
            workload=name,
            number=number,
            created_at=self.now,
            files_digest="",
            document=document,
            load_balancer=lb,
        )
        self.put(keys.revision(ns, name, number), revision.to_json())
        old = self.state.workloads.get((ns, name))
        record = old or WorkloadRecord(name=name, namespace=ns, revision=number)
        wanted = document.spec.replicas if replicas is None else replicas
        self.put(keys.workload(ns, name), record.model_copy(update={"revision": number, "replicas": wanted}).to_json())

    def change(self, name: str = "web", **update: Any) -> None:
        """Change the workload's record: scale, pause, restart, delete."""
        record = self.state.workloads["default", name]
        self.put(keys.workload("default", name), record.model_copy(update=update).to_json())

    def node(self, name: str, **update: Any) -> None:
        """Change a node's record: cordon, drain, taint."""
        self.put(keys.node(name), self.state.nodes[name].model_copy(update=update).to_json())

    def drain(self, name: str, *, daemons: bool = False) -> None:
        """Ask for a drain as the API does."""
        self.node(name, cordoned=True, draining=True, drain_daemons=daemons)

    def uncordon(self, name: str) -> None:
        """End a drain or a cordon."""
        self.node(name, cordoned=False, draining=False, drain_daemons=False)

    # --- the leader -------------------------------------------------------------------------------------------

    def decide(self, *, judge_loss: bool = True) -> Reconciliation:
        """What the leader would do now."""
        return reconcile(self.state, now=self.now, judge_loss=judge_loss)

    def lead(self, *, place: bool = True) -> list[LeaderChange]:
        """One pass of the leader, with a scheduler that spreads round robin over live nodes."""
        result = self.decide()
        for change in result.changes:
            self.commit(change)
        if place:
            waiting = [r for r in self.state.instances.values() if r.node is None and r.desired is Desired.RUN]
            for index, record in enumerate(sorted(waiting, key=lambda r: r.id)):
                open_ = [record.only_node] if record.only_node else self.open_for(record)
                if open_:
                    self.put_instance(record.model_copy(update={"node": open_[index % len(open_)]}))
        return result.changes

    def open_for(self, record: InstanceRecord) -> list[str]:
        """The nodes the scheduler may choose: alive, not cordoned, without taints that are not tolerated."""
        own = self.state.revisions[record.namespace, record.workload, record.revision]
        tolerations = tolerations_of(own.document.spec)
        hard = (TaintEffect.NO_SCHEDULE, TaintEffect.NO_EXECUTE)
        pins = {node for place, node in self.state.pins.items() if place[:2] == (record.namespace, record.workload)}
        found = []
        for name, node in sorted(self.state.nodes.items()):
            taints = taints_of(node, self.state.reports.get(name))
            tainted = any(untolerated(taints, tolerations, effect) for effect in hard)
            if name in self.state.alive and not node.cordoned and not tainted and (not pins or name in pins):
                found.append(name)
        return found

    def put_instance(self, record: InstanceRecord) -> None:
        """Write an instance's record."""
        self.put(keys.instance(record.namespace, record.id), record.to_json())

    # --- the nodes --------------------------------------------------------------------------------------------

    def report(self, record: InstanceRecord, **status: Any) -> None:
        """What the instance's node says of it."""
        before = self.state.statuses.get((record.namespace, record.id)) or InstanceStatus(node=record.node or "")
        self.put(keys.status(record.namespace, record.id), before.model_copy(update=status).to_json())

    def obey(self, *, healthy: Any = lambda record: True, only: frozenset[str] | None = None) -> None:
        """Let nodes do what they are told: start what should run, stop what should not."""
        for record in list(self.state.instances.values()):
            if record.node is None or record.node not in self.state.alive:
                continue
            if only is not None and record.id not in only:
                continue
            status = self.state.statuses.get((record.namespace, record.id))
            if record.desired is Desired.STOP:
                self.report(record, phase=Phase.STOPPED, ready=False)
            elif status is None or not status.ready:
                ready = healthy(record)
                self.report(record, phase=Phase.RUNNING, ready=ready, ready_since=self.now if ready else None)

    def kill_node(self, name: str) -> None:
        """The node gives no sign of life any more."""
        self.delete(keys.alive(name))

    def revive_node(self, name: str) -> None:
        """It is back."""
        self.put(keys.alive(name), b"{}")

    def settle(self, passes: int = 60, **how: Any) -> None:
        """Leader and nodes in turn until nothing changes; fails if that never happens."""
        quiet = 0
        for _ in range(passes):
            before = replace(self.state, revision=0, key_revisions={})
            self.lead()
            self.obey(**how)
            self.now += 1.0
            quiet = quiet + 1 if replace(self.state, revision=0, key_revisions={}) == before else 0
            if quiet == 5:  # longer than any minReadySeconds the tests use
                return
        raise AssertionError(f"still changing after {passes} passes: {self.decide().changes[:5]}")

    # --- looking ------------------------------------------------------------------------------------------------

    def running(self, name: str = "web") -> list[InstanceRecord]:
        """Instances that are to run and are not lost."""
        found = self.state.instances_of("default", name)
        return [r for r in found if r.desired is Desired.RUN and r.lost_at is None]

    def ready(self, name: str = "web") -> list[InstanceRecord]:
        """Instances of a workload that get traffic, on nodes that give signs of life."""
        found = []
        for record in self.running(name):
            status = self.state.statuses.get((record.namespace, record.id))
            if status is not None and status.ready and record.node in self.state.alive:
                found.append(record)
        return found
