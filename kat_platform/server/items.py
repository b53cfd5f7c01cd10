"""Items: the forms in which the API gives objects; ``/openapi.json`` has their schemas."""

from __future__ import annotations

from typing import Literal

from kat_platform.model.base import Model
from kat_platform.model.cluster import ClusterConfiguration
from kat_platform.model.event import Event
from kat_platform.model.instance import InstanceRecord, InstanceStatus, Phase
from kat_platform.model.namespace import Namespace
from kat_platform.model.node import NodeRecord, NodeReport, NodeTaint
from kat_platform.model.revision import Revision, Rollout, WorkloadRecord


class Summary(Model):
    """How many instances a workload should have and has: ``updated`` ones are of the target revision."""

    wanted: int = 0
    updated: int = 0
    ready: int = 0
    """Ready instances of the target revision."""
    available: int = 0
    """Ready instances of any revision."""


class WorkloadItem(Model):
    """A workload: what the operator wants, the target revision (without its files), and how it stands."""

    kind: Literal["Workload"] = "Workload"
    namespace: str
    name: str
    etag: int
    """Revision of the record in the store: what ``If-Match`` compares with."""
    record: WorkloadRecord
    revision: Revision | None = None
    rollout: Rollout | None = None
    virtual_ip: str | None = None
    summary: Summary = Summary()


class RevisionItem(Model):
    """One revision of a workload, with the files it was made from."""

    kind: Literal["Revision"] = "Revision"
    namespace: str
    name: str
    """``WORKLOAD/NUMBER``."""
    etag: int
    workload: str
    number: int
    revision: Revision


class InstanceItem(Model):
    """An instance: the leader's word (``record``), the node's (``status``), and what follows from both."""

    kind: Literal["Instance"] = "Instance"
    namespace: str
    name: str
    etag: int
    workload: str
    node: str | None = None
    phase: Phase
    ready: bool
    record: InstanceRecord
    status: InstanceStatus | None = None


class NodeLoad(Model):
    """What the instances on a node ask of it, as of when the item was made: millicores, bytes, and their number."""

    instances: int = 0
    cpu_millicores: int = 0
    memory_bytes: int = 0


class NodeItem(Model):
    """A node: its record, its own report, and whether it is ready."""

    kind: Literal["Node"] = "Node"
    name: str
    etag: int
    ready: bool
    reason: str = ""
    """Why it is not ready."""
    labels: dict[str, str]
    """All of them: the operator's and the facts of the host."""
    taints: tuple[NodeTaint, ...] = ()
    """All of them: the operator's, and those for as long as the host lacks something, as a disk with room."""
    record: NodeRecord
    report: NodeReport | None = None
    load: NodeLoad = NodeLoad()


class NamespaceItem(Model):
    """A namespace."""

    kind: Literal["Namespace"] = "Namespace"
    name: str
    etag: int
    document: Namespace


class EventItem(Model):
    """An event; ``name`` identifies it within its namespace."""

    kind: Literal["Event"] = "Event"
    namespace: str
    name: str
    etag: int
    event: Event


class ConfigurationItem(Model):
    """The cluster's configuration."""

    kind: Literal["ClusterConfiguration"] = "ClusterConfiguration"
    name: str
    etag: int
    document: ClusterConfiguration


Item = WorkloadItem | RevisionItem | InstanceItem | NodeItem | NamespaceItem | EventItem | ConfigurationItem
