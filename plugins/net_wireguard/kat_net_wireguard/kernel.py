"""The tunnel where the kernel has WireGuard. The library that speaks to it is loaded only on such hosts."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Callable
from ipaddress import IPv4Network, ip_network
from typing import Any

from kat_net_wireguard import rtnetlink
from kat_net_wireguard.mesh import PeerChange, PeerState
from kat_net_wireguard.names import Names
from kat_net_wireguard.netlink import NetlinkError
from kat_platform.errors import HostNotReady, NetworkFailure

_OPERATION_NOT_SUPPORTED = 95


def _library() -> Any:
    from pyroute2 import WireGuard  # 24 MB and 140 ms: only where there is a kernel device to configure

    return WireGuard()


class KernelTunnel:
    """A WireGuard interface carried by the kernel."""

    kind = "kernel"

    def __init__(self, names: Names, library: Callable[[], Any] = _library) -> None:
        self._names = names
        self._library = library

    async def open(self, private_key: bytes, listen_port: int) -> None:
        """Make the interface if it is not there, and give it key and port."""
        await asyncio.to_thread(self._open, private_key, listen_port)

    def _open(self, private_key: bytes, listen_port: int) -> None:
        with rtnetlink.open_here() as kernel:
            if rtnetlink.link(kernel, self._names.tunnel) is None:
                try:
                    rtnetlink.add_link(kernel, self._names.tunnel, "wireguard")
                except NetlinkError as error:
                    if error.errno == _OPERATION_NOT_SUPPORTED:
                        raise HostNotReady(
                            "this kernel has no WireGuard", hint="load the module wireguard or set tunnel: userspace"
                        ) from error
                    raise NetworkFailure(f"cannot make {self._names.tunnel}: {error}") from error
        self._call("set", private_key=base64.b64encode(private_key).decode(), listen_port=listen_port)

    def _call(self, operation: str, **arguments: Any) -> Any:
        with self._library() as library:
            return getattr(library, operation)(self._names.tunnel, **arguments)

    async def peers(self) -> dict[bytes, PeerState]:
        """Read all peers from the kernel."""
        messages = await asyncio.to_thread(lambda: list(self._call("info")))
        found: dict[bytes, PeerState] = {}
        for message in messages:  # a device with many peers comes in several messages
            for peer in message.get_attr("WGDEVICE_A_PEERS") or ():
                state = read_peer(peer)
                found[state.public_key] = state
        return found

    async def change(self, changes: tuple[PeerChange, ...]) -> None:
        """Send the changes, one message each: the kernel takes each as a whole."""
        for change in changes:
            await asyncio.to_thread(self._call, "set", peer=peer_arguments(change))

    async def died(self) -> None:
        """Wait for ever: the kernel carries the tunnel."""
        await asyncio.Event().wait()

    async def close(self) -> None:
        """Nothing to let go of."""

    async def remove(self) -> None:
        """Nothing but the interface itself, which goes with all of this tag's interfaces."""


def peer_arguments(change: PeerChange) -> dict[str, Any]:
    """Write a change the way the library takes it."""
    arguments: dict[str, Any] = {"public_key": base64.b64encode(change.public_key).decode()}
    if change.remove:
        return arguments | {"remove": True}
    if change.endpoint is not None:
        arguments |= {"endpoint_addr": change.endpoint[0], "endpoint_port": change.endpoint[1]}
    if change.keepalive is not None:
        arguments["persistent_keepalive"] = change.keepalive
    if change.allowed is not None:
        arguments |= {"replace_allowed_ips": True, "allowed_ips": sorted(str(network) for network in change.allowed)}
    return arguments


def read_peer(peer: Any) -> PeerState:
    """Read one peer of the library's answer."""
    endpoint = peer.get_attr("WGPEER_A_ENDPOINT")
    handshake = peer.get_attr("WGPEER_A_LAST_HANDSHAKE_TIME") or {}
    seconds = handshake.get("tv_sec", 0) + handshake.get("tv_nsec", 0) / 1e9
    key = peer.get_attr("WGPEER_A_PUBLIC_KEY")
    return PeerState(
        public_key=base64.b64decode(key),
        endpoint=(endpoint["addr"], endpoint["port"]) if endpoint and endpoint.get("addr") else None,
        allowed=frozenset(_networks(peer.get_attr("WGPEER_A_ALLOWEDIPS") or ())),
        keepalive=peer.get_attr("WGPEER_A_PERSISTENT_KEEPALIVE_INTERVAL") or 0,
        last_handshake_at=seconds or None,
        received_bytes=peer.get_attr("WGPEER_A_RX_BYTES") or 0,
        sent_bytes=peer.get_attr("WGPEER_A_TX_BYTES") or 0,
    )


def _networks(entries: Any) -> list[IPv4Network]:
    networks = [ip_network(entry["addr"]) for entry in entries if entry.get("addr")]
    return [network for network in networks if isinstance(network, IPv4Network)]


def available(names: Names) -> bool:
    """Tell whether the kernel can make WireGuard interfaces, by making one for a moment."""
    with rtnetlink.open_here() as kernel:
        if (found := rtnetlink.link(kernel, names.tunnel)) is not None:
            return found.kind == "wireguard"
        trial = f"{names.tunnel}t"
        try:
            rtnetlink.add_link(kernel, trial, "wireguard")
        except NetlinkError:
            return False
        made = rtnetlink.link(kernel, trial)
        if made is not None:
            rtnetlink.delete_link(kernel, made.index)
        return True
