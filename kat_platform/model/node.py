"""Node: a machine of the cluster, as the leader records it and as its own agent reports it."""

from __future__ import annotations

from enum import StrEnum
from ipaddress import IPv4Network

from pydantic import Field, JsonValue

from kat_platform.model.base import Model
from kat_platform.model.trust import NodeTrust


class NodeRole(StrEnum):
    """What a node does besides running instances."""

    CONTROL_PLANE = "control-plane"
    WORKER = "worker"


class NodeTaint(Model):
    """A mark that keeps instances away unless they tolerate it."""

    key: str
    value: str = ""
    effect: str = "NoSchedule"


class Condition(Model):
    """One aspect of an object: whether it holds, why, and since when (seconds since the epoch)."""

    type: str
    status: bool
    reason: str = ""
    message: str = ""
    since: float = 0.0


class NodeRecord(Model):
    """What the control plane knows of a node. Written by join, by the operator and by the leader."""

    name: str
    role: NodeRole = NodeRole.WORKER
    labels: dict[str, str] = Field(default_factory=dict)
    annotations: dict[str, str] = Field(default_factory=dict)
    taints: tuple[NodeTaint, ...] = ()
    cordoned: bool = False
    draining: bool = False
    """Its instances are to move away, at the pace of their update rules. Such a node is cordoned too."""
    drain_daemons: bool = False
    """With ``draining``: the instances of DaemonServices are to go too."""
    subnet: IPv4Network | None = None
    """Given by the leader; ``None`` until then."""
    public_key: str = ""
    """The overlay's public key, made on the node."""
    created_at: float = 0.0

    @property
    def overlay_address(self) -> str | None:
        """The node's own address in the overlay: the first usable one of its subnet."""
        return None if self.subnet is None else str(self.subnet.network_address + 1)


class NodeStanding(Model):
    """The leader's word on a node: how it stands, written when that changes and not otherwise."""

    alive: bool = True
    ready: bool = False
    reason: str = ""
    """Why it is not ready, as it was when that began."""
    since: float = 0.0
    """When it became ready, unready, dead or alive."""
    given_up_at: float | None = None
    """When its instances were declared lost, to be replaced elsewhere; ``None`` while it is waited for."""
    held: bool = False
    """It is dead, but too many others are as well: its instances are not replaced for now."""
    due_at: float | None = None
    """When one that was held is given up after all, because most others are back; ``None`` while they are not."""


class Capacity(Model):
    """Amounts of a node: CPU in millicores, memory in bytes, instances by count."""

    cpu_millicores: int = 0
    memory_bytes: int = 0
    instances: int = 110


class NodeReport(Model):
    """What a node's agent reports about itself, on change only."""

    capacity: Capacity = Capacity()
    allocatable: Capacity = Capacity()
    addresses: tuple[str, ...] = ()
    """Underlay addresses."""
    public_key: str = ""
    listen_port: int = 51820
    versions: dict[str, str] = Field(default_factory=dict)
    """Versions by part: ``agent``, ``kernel``, ``os`` and each driver by its capability."""
    facts: dict[str, str] = Field(default_factory=dict)
    """Labels contributed by the host and by plugins; merged under the operator's own labels."""
    plugin_facts: dict[str, JsonValue] = Field(default_factory=dict)
    """What each hook plugin tells people of the node, by its name."""
    conditions: tuple[Condition, ...] = ()
    images: tuple[str, ...] = ()
    boot_id: str = ""
    trust: NodeTrust | None = None
    """Its certificates; ``None`` from an agent that does not tell."""
    reported_at: float = 0.0
