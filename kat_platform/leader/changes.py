"""Changes: what the leader wants to write, as named steps that describe themselves. Pure data."""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv4Network

from kat_platform.model.instance import InstanceRecord
from kat_platform.model.node import NodeStanding
from kat_platform.model.revision import Rollout
from kat_platform.model.trust import TrustRecord


@dataclass(frozen=True, slots=True)
class CreateInstance:
    """A new instance, with or without a node yet."""

    record: InstanceRecord

    def __str__(self) -> str:
        where = f" on {self.record.node}" if self.record.node else ""
        return f"create {self.record.key} of revision {self.record.revision}{where}"


@dataclass(frozen=True, slots=True)
class UpdateInstance:
    """A changed instance record: assigned, asked to stop, lost, or found again; ``why`` is for people."""

    record: InstanceRecord
    why: str

    def __str__(self) -> str:
        return f"{self.record.key}: {self.why}"


@dataclass(frozen=True, slots=True)
class RemoveInstance:
    """Forget an instance whose container is gone: its record and its status."""

    namespace: str
    id: str

    def __str__(self) -> str:
        return f"forget {self.namespace}/{self.id}"


@dataclass(frozen=True, slots=True)
class SetRollout:
    """How a workload's change to its target is going."""

    namespace: str
    workload: str
    rollout: Rollout

    def __str__(self) -> str:
        return f"{self.namespace}/{self.workload}: rollout {self.rollout.state.value}"


@dataclass(frozen=True, slots=True)
class RollBack:
    """Make the stable revision the target again, as a new revision with the old content."""

    namespace: str
    workload: str
    to_revision: int
    failed_revision: int

    def __str__(self) -> str:
        return f"{self.namespace}/{self.workload}: back to revision {self.to_revision}"


@dataclass(frozen=True, slots=True)
class AllocateVip:
    """Give a workload its virtual IP."""

    namespace: str
    workload: str
    address: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.workload}: virtual IP {self.address}"


@dataclass(frozen=True, slots=True)
class ReleaseVip:
    """Take back a virtual IP whose workload is gone or has no load balancer any more."""

    namespace: str
    workload: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.workload}: release virtual IP"


@dataclass(frozen=True, slots=True)
class AssignSubnet:
    """Give a node its part of the overlay."""

    node: str
    subnet: IPv4Network

    def __str__(self) -> str:
        return f"node {self.node}: subnet {self.subnet}"


@dataclass(frozen=True, slots=True)
class PinVolume:
    """Record on which node a workload's data lies."""

    namespace: str
    workload: str
    volume: str
    node: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.workload}: volume {self.volume} lies on {self.node}"


@dataclass(frozen=True, slots=True)
class RemoveWorkload:
    """Forget a deleted workload with its revisions and rollout; its instances are gone already."""

    namespace: str
    workload: str

    def __str__(self) -> str:
        return f"forget workload {self.namespace}/{self.workload}"


@dataclass(frozen=True, slots=True)
class SetStanding:
    """How a node stands from now on; ``None`` forgets a node that was removed."""

    node: str
    standing: NodeStanding | None

    def __str__(self) -> str:
        if self.standing is None:
            return f"forget how node {self.node} stood"
        word = "ready" if self.standing.ready else f"not ready, {self.standing.reason}"
        return f"node {self.node}: {word}{', given up' if self.standing.given_up_at is not None else ''}"


@dataclass(frozen=True, slots=True)
class SetTrust:
    """How far the change of the CA has come from now on."""

    record: TrustRecord

    def __str__(self) -> str:
        turn = f", the store's member on {self.record.store_turn} starts anew" if self.record.store_turn else ""
        return f"change of the CA: {self.record.phase.value}{turn}"


LeaderChange = (
    CreateInstance
    | UpdateInstance
    | RemoveInstance
    | SetRollout
    | RollBack
    | AllocateVip
    | ReleaseVip
    | AssignSubnet
    | PinVolume
    | RemoveWorkload
    | SetStanding
    | SetTrust
)
