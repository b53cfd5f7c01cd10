"""What ``pluginConfig.wireguard`` in ``cluster.kat`` may hold."""

from __future__ import annotations

from enum import StrEnum
from ipaddress import IPv4Network

from pydantic import Field

from kat_platform.model.base import Model


class TunnelKind(StrEnum):
    """Who carries the packets between nodes."""

    AUTO = "auto"
    KERNEL = "kernel"
    USERSPACE = "userspace"


class WireGuardConfig(Model):
    """Settings of the network driver ``wireguard``."""

    tunnel: TunnelKind = Field(
        default=TunnelKind.AUTO,
        description="Who carries packets between nodes: auto takes the kernel where it can, else wireguard-go.",
    )
    userspace_command: str = Field(
        default="wireguard-go", description="The program to run where the kernel has no WireGuard."
    )
    trusted_sources: tuple[IPv4Network, ...] = Field(
        default=(),
        description="Networks outside the cluster that may reach containers and virtual IPs by routing through a node.",
    )
    open_forward: bool = Field(
        default=True,
        description="Where another firewall (Docker, ufw) drops forwarded packets by default, let the overlay's "
        "through by rules in iptables' FORWARD chain; they are tagged and taken away on reset.",
    )
