"""Which peers the tunnel should have and what to change to get there. Pure."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from ipaddress import IPv4Network

from kat_net_wireguard import keys
from kat_platform.errors import InvalidInput
from kat_platform.interfaces.network import NodeNetwork, Peer

FRESH_SECONDS = 180.0
"""WireGuard drops a session's keys after this long without a new handshake (whitepaper, Reject-After-Time)."""


@dataclass(frozen=True, slots=True)
class TunnelPeer:
    """A peer as the tunnel is told: key, where to send, what to accept, keepalive in seconds (0: off)."""

    public_key: bytes
    endpoint: tuple[str, int] | None
    allowed: frozenset[IPv4Network]
    keepalive: int = 0


@dataclass(frozen=True, slots=True)
class PeerState(TunnelPeer):
    """A peer as the tunnel tells: the endpoint learnt by roaming, last handshake (epoch seconds), byte counts."""

    last_handshake_at: float | None = None
    received_bytes: int = 0
    sent_bytes: int = 0


@dataclass(frozen=True, slots=True)
class PeerChange:
    """One peer to add, change (``None`` fields stay as they are) or remove."""

    public_key: bytes
    remove: bool = False
    endpoint: tuple[str, int] | None = None
    allowed: frozenset[IPv4Network] | None = None
    keepalive: int | None = None


def wanted_peers(network: NodeNetwork, own_key: bytes, peers: tuple[Peer, ...]) -> dict[bytes, TunnelPeer]:
    """Translate nodes into tunnel peers; this node itself is left out.

    Raises ``InvalidInput`` when two nodes share a key or their subnets overlap: WireGuard would silently take one.
    """
    wanted: dict[bytes, TunnelPeer] = {}
    seen: list[Peer] = []
    for peer in peers:
        key = keys.decode(peer.public_key)
        if key == own_key:
            continue
        if key in wanted:
            raise InvalidInput(f"node {peer.node_name} has the same public key as another node")
        if not peer.subnet.subnet_of(network.cluster_cidr):
            raise InvalidInput(f"node {peer.node_name} has {peer.subnet}, outside the cluster's {network.cluster_cidr}")
        if peer.subnet.overlaps(network.subnet):
            raise InvalidInput(f"node {peer.node_name} has {peer.subnet}, which overlaps this node's {network.subnet}")
        for other in seen:
            if peer.subnet.overlaps(other.subnet):
                raise InvalidInput(f"nodes {other.node_name} and {peer.node_name} have overlapping subnets")
        seen.append(peer)
        wanted[key] = TunnelPeer(key, peer.endpoint, frozenset((peer.subnet,)), peer.keepalive_seconds or 0)
    return wanted


def changes(
    current: Mapping[bytes, PeerState],
    wanted: Mapping[bytes, TunnelPeer],
    told: Mapping[bytes, TunnelPeer],
    now: float,
) -> tuple[PeerChange, ...]:
    """Say what to change so that the tunnel has exactly ``wanted``; nothing is said of peers that are right.

    ``told`` is what this process last asked for. A peer may have roamed since, so its endpoint is set again only when
    somebody wants another one than before, or when the link has no fresh handshake. In the latter case the peer begins
    anew, see :func:`anew`.
    Removals come first: a subnet may move from one peer to another.
    """
    removed = [PeerChange(key, remove=True) for key in current if key not in wanted]
    result: list[PeerChange] = []
    for key, want in wanted.items():
        have = current.get(key)
        if have is None:
            result.append(_whole(want))
            continue
        endpoint = want.endpoint if _must_redirect(have, want, told.get(key), now) else None
        if endpoint is not None and have.endpoint is not None and not _alive(have, now):
            old, new = anew(want)
            removed.append(old)
            result.append(new)
            continue
        allowed = want.allowed if want.allowed != have.allowed else None
        keepalive = want.keepalive if want.keepalive != have.keepalive else None
        if (endpoint, allowed, keepalive) != (None, None, None):
            result.append(PeerChange(key, endpoint=endpoint, allowed=allowed, keepalive=keepalive))
    return (*removed, *result)


def anew(want: TunnelPeer) -> tuple[PeerChange, PeerChange]:
    """Take a peer away and add it again, so that its next handshake goes out at once.

    WireGuard sends one handshake in five seconds to a peer (whitepaper, Rekey-Timeout), whether or not its endpoint
    has become another since the last. A peer that was just added has sent none. Only for a peer without a session:
    that of a living one would end.
    """
    return PeerChange(want.public_key, remove=True), _whole(want)


def _whole(want: TunnelPeer) -> PeerChange:
    return PeerChange(want.public_key, endpoint=want.endpoint, allowed=want.allowed, keepalive=want.keepalive)


def added(steps: tuple[PeerChange, ...], known: Collection[bytes]) -> frozenset[bytes]:
    """Give the peers that begin with these steps, be it anew."""
    gone = {step.public_key for step in steps if step.remove}
    return frozenset(
        s.public_key for s in steps if not s.remove and (s.public_key in gone or s.public_key not in known)
    )


def nudges(
    current: Mapping[bytes, PeerState], wanted: Mapping[bytes, TunnelPeer], own_key: bytes, turn: int
) -> tuple[PeerChange, ...]:
    """Try those again that have not answered since they were added: the node with the lesser key in odd turns, the
    other one in even turns, so that they do not cross.
    """
    silent = [
        want
        for key, want in wanted.items()
        if want.endpoint and want.keepalive and key in current and current[key].last_handshake_at is None
    ]
    pairs = [anew(want) for want in silent if (own_key < want.public_key) == (turn % 2 == 1)]
    return (*(old for old, _ in pairs), *(new for _, new in pairs))


def without_crossing(steps: tuple[PeerChange, ...], known: Collection[bytes], own_key: bytes) -> tuple[PeerChange, ...]:
    """Let only one side of a new pair speak first.

    A keepalive makes a peer open a handshake as soon as it is set. Nodes hear of each other in the same millisecond;
    when their first messages cross, each forgets its own handshake, both answers are void, and the tunnel stays
    silent until the next try (five seconds, seen up to twenty on a busy host). So the node with the greater key
    adds a new peer without keepalive and sets it a moment later.
    """
    new = added(steps, known)
    held = [step for step in steps if step.keepalive and step.public_key in new and own_key > step.public_key]
    return tuple(replace(step, keepalive=0) if step in held else step for step in steps)


def _must_redirect(have: PeerState, want: TunnelPeer, told: TunnelPeer | None, now: float) -> bool:
    if want.endpoint is None or want.endpoint == have.endpoint:
        return False
    if have.endpoint is None:
        return True
    redirected = told is not None and told.endpoint != want.endpoint
    return redirected or not _alive(have, now)


def _alive(have: PeerState, now: float) -> bool:
    return have.last_handshake_at is not None and now - have.last_handshake_at < FRESH_SECONDS
