"""What the driver asks of whoever carries the tunnel: the kernel or ``wireguard-go``."""

from __future__ import annotations

from typing import Protocol

from kat_net_wireguard.mesh import PeerChange, PeerState


class Tunnel(Protocol):
    """A WireGuard interface in the agent's network namespace. Operations raise ``NetworkFailure``."""

    kind: str
    """``kernel`` or ``userspace``, for messages."""

    async def open(self, private_key: bytes, listen_port: int) -> None:
        """Make the interface, or adopt the one that stands, with this key and port. Idempotent."""

    async def peers(self) -> dict[bytes, PeerState]:
        """Read all peers."""

    async def change(self, changes: tuple[PeerChange, ...]) -> None:
        """Carry the changes out; peers not named are not disturbed."""

    async def died(self) -> None:
        """Wait until the carrier dies (a kernel never does)."""

    async def close(self) -> None:
        """Let go of this process's resources; the tunnel stays."""

    async def remove(self) -> None:
        """Take the tunnel away, whoever made it. Idempotent; works without ``open``."""
