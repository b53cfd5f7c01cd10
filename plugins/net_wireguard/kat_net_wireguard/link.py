"""Plumbing: the gateway interface, and a routed virtual cable to each container. Blocking; runs in threads.

A container has its address as /32 and everything else, its neighbours included, behind the gateway. So every
packet passes the host's routing: connection tracking sees both directions of a virtual IP on the same node (bridged
replies would go around it), isolation can be enforced, and a packet for an address nobody holds falls through to the
gateway interface, where it is refused. What is attached is read from the kernel: each cable's alias says whose it is.
"""

from __future__ import annotations

import errno
import os
import re
from contextlib import suppress
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Interface, IPv4Network
from pathlib import Path

from kat_net_wireguard import netlink, rtnetlink
from kat_net_wireguard.names import Names
from kat_platform.errors import Conflict, NetworkFailure
from kat_platform.interfaces.network import Attachment, NodeNetwork

CONTAINER_INTERFACE = "eth0"
_ALIAS = re.compile(r"kat (?P<address>[0-9.]+) (?P<inode>[0-9]+) (?P<instance>\S+)")
_SETTINGS = {"rp_filter": "1", "send_redirects": "0", "accept_redirects": "0", "shared_media": "0", "forwarding": "1"}
"""Of the host's end of a cable. Strict reverse-path filtering means a container cannot send from another's address."""


@dataclass(frozen=True, slots=True)
class Cable:
    """What the kernel knows of one attached container."""

    link: rtnetlink.Link
    instance_id: str
    address: IPv4Address
    inode: int
    """Of the container's network namespace."""


def cable_of(link: rtnetlink.Link) -> Cable | None:
    """Read a link's alias; ``None`` when it is not (or not yet) a finished cable of ours."""
    match = _ALIAS.fullmatch(link.alias)
    if match is None:
        return None
    return Cable(link, match["instance"], IPv4Address(match["address"]), int(match["inode"]))


def mac_of(address: IPv4Address, *, host: bool) -> bytes:
    """Derive a link-layer address from an overlay address, so that a restarted container keeps its own."""
    return bytes((0x0A, 0x59 if host else 0x58)) + address.packed


def list_cables(names: Names) -> tuple[Cable, ...]:
    """List what is attached now."""
    with rtnetlink.open_here() as kernel:
        return tuple(cable for link in _ours(kernel, names) if (cable := cable_of(link)) is not None)


def _ours(kernel: netlink.Netlink, names: Names) -> list[rtnetlink.Link]:
    return [link for link in rtnetlink.links(kernel) if link.name.startswith(names.veth_prefix)]


def make_gateway(names: Names, network: NodeNetwork) -> None:
    """Make the gateway interface with the node's address and send virtual IPs its way. Idempotent."""
    with rtnetlink.open_here() as kernel:
        found = rtnetlink.link(kernel, names.bridge)
        if found is None:
            rtnetlink.add_link(kernel, names.bridge, "bridge")
            found = rtnetlink.link(kernel, names.bridge)
            if found is None:
                raise NetworkFailure(f"the interface {names.bridge} vanished right after it was made")
        elif found.kind != "bridge":
            raise Conflict(f"an interface {names.bridge} of kind {found.kind or 'physical'} is in the way: remove it")
        rtnetlink.set_link(kernel, found.index, mtu=network.mtu)
        rtnetlink.set_addresses(kernel, found.index, network.gateway)
        # Virtual IPs are translated before they are routed; what arrives here has no backend and is refused. The
        # route also makes a process of the host use the gateway address, which other nodes let in.
        rtnetlink.set_route(kernel, network.service_cidr, found.index, source=network.gateway.ip)


def set_up_tunnel(names: Names, network: NodeNetwork) -> None:
    """Bring the tunnel interface up and route the rest of the overlay over it. Idempotent."""
    with rtnetlink.open_here() as kernel:
        found = rtnetlink.link(kernel, names.tunnel)
        if found is None:
            raise NetworkFailure(f"the tunnel interface {names.tunnel} is not there")
        rtnetlink.set_link(kernel, found.index, mtu=network.mtu)
        rtnetlink.set_route(kernel, network.cluster_cidr, found.index, source=network.gateway.ip)


def tunnel_exists(names: Names) -> bool:
    """Tell whether the tunnel interface is in this network namespace."""
    with rtnetlink.open_here() as kernel:
        return rtnetlink.link(kernel, names.tunnel) is not None


def attach(names: Names, network: NodeNetwork, wanted: Attachment) -> None:
    """Plumb one container; see the contract. Raises ``NetworkFailure`` or ``Conflict``."""
    try:
        namespace = os.open(wanted.netns, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise NetworkFailure(
            f"the network namespace {wanted.netns} of {wanted.instance_id} cannot be opened: {error.strerror}",
            hint="has the container stopped?",
            instance=wanted.instance_id,
        ) from error
    try:
        with rtnetlink.open_here() as kernel:
            _attach(kernel, names, network, wanted, namespace)
    except netlink.NetlinkError as error:
        raise NetworkFailure(f"cannot attach {wanted.instance_id}: {error}", instance=wanted.instance_id) from error
    finally:
        os.close(namespace)


def _attach(kernel: netlink.Netlink, names: Names, network: NodeNetwork, wanted: Attachment, namespace: int) -> None:
    inode, address = os.fstat(namespace).st_ino, wanted.address.ip
    present = _ours(kernel, names)
    near: rtnetlink.Link | None = None
    for cable in filter(None, map(cable_of, present)):
        if cable.instance_id == wanted.instance_id:
            if (cable.inode, cable.address) == (inode, address):
                near = cable.link
            else:
                rtnetlink.delete_link(kernel, cable.link.index)
        elif cable.address == address:
            raise Conflict(f"{address} is held by {cable.instance_id}: detach it first", instance=wanted.instance_id)
    container_mac, host_mac = mac_of(address, host=False), mac_of(address, host=True)
    if near is None:
        far = rtnetlink.VethEnd(CONTAINER_INTERFACE, container_mac, network.mtu)
        near = _new_cable(kernel, names, wanted.instance_id, present, far, host_mac, namespace)
    _inside(namespace, network.gateway.ip, address, network.mtu, host_mac)
    for setting, value in _SETTINGS.items():
        Path(f"/proc/sys/net/ipv4/conf/{near.name}/{setting}").write_text(value)
    quiet = Path(f"/proc/sys/net/ipv6/conf/{near.name}/disable_ipv6")
    if quiet.exists():  # the overlay is IPv4: no link-local way around its rules, no router solicitations
        quiet.write_text("1")
    # The alias before the route: a crash in between leaves something that is known to be ours.
    alias = f"kat {address} {inode} {wanted.instance_id}"
    rtnetlink.set_link(kernel, near.index, alias=alias, mtu=network.mtu)
    rtnetlink.set_neighbour(kernel, near.index, address, container_mac)
    rtnetlink.set_route(kernel, IPv4Network(address), near.index, source=network.gateway.ip)


def _new_cable(
    kernel: netlink.Netlink,
    names: Names,
    instance_id: str,
    present: list[rtnetlink.Link],
    far: rtnetlink.VethEnd,
    host_mac: bytes,
    namespace: int,
) -> rtnetlink.Link:
    taken = {link.name: link for link in present}
    for attempt in range(8):
        name = names.veth(instance_id, attempt)
        leftover = taken.get(name)
        if leftover is not None and (other := cable_of(leftover)) is not None and other.instance_id != instance_id:
            continue  # two ids with one hash
        if leftover is not None:
            rtnetlink.delete_link(kernel, leftover.index)  # half made by a process that died, or just replaced
        rtnetlink.add_veth(kernel, rtnetlink.VethEnd(name, host_mac, far.mtu), far, namespace)
        made = rtnetlink.link(kernel, name)
        if made is not None:
            return made
    raise NetworkFailure(f"no free interface name for {instance_id}", instance=instance_id)


def _inside(namespace: int, gateway: IPv4Address, address: IPv4Address, mtu: int, gateway_mac: bytes) -> None:
    with netlink.open_in(namespace, netlink.ROUTE) as kernel:
        loopback, eth = rtnetlink.link(kernel, "lo"), rtnetlink.link(kernel, CONTAINER_INTERFACE)
        if loopback is None or eth is None:
            raise NetworkFailure(f"the container's {CONTAINER_INTERFACE} is gone: was its namespace replaced?")
        if not loopback.up:
            rtnetlink.set_link(kernel, loopback.index)
        if not eth.up or eth.mtu != mtu:
            rtnetlink.set_link(kernel, eth.index, mtu=mtu)
        rtnetlink.set_addresses(kernel, eth.index, IPv4Interface((address, 32)))
        rtnetlink.set_neighbour(kernel, eth.index, gateway, gateway_mac)
        rtnetlink.set_route(kernel, IPv4Network(gateway), eth.index)
        rtnetlink.set_route(kernel, IPv4Network("0.0.0.0/0"), eth.index, via=gateway)


def detach(names: Names, instance_ids: frozenset[str]) -> frozenset[str]:
    """Take the cables of these instances away; give those that had one."""
    gone = set()
    with rtnetlink.open_here() as kernel:
        for cable in filter(None, map(cable_of, _ours(kernel, names))):
            if cable.instance_id in instance_ids:
                rtnetlink.delete_link(kernel, cable.link.index)
                gone.add(cable.instance_id)
    return frozenset(gone)


def collect(names: Names, valid: frozenset[str]) -> frozenset[str]:
    """Take away the cables of instances not in ``valid`` and those a dead process left half made."""
    gone = set()
    with rtnetlink.open_here() as kernel:
        for link in _ours(kernel, names):
            cable = cable_of(link)
            if cable is None:
                rtnetlink.delete_link(kernel, link.index)
            elif cable.instance_id not in valid:
                rtnetlink.delete_link(kernel, link.index)
                gone.add(cable.instance_id)
    return frozenset(gone)


def remove_all(names: Names) -> None:
    """Remove every interface of this tag; routes and addresses go with them."""
    with rtnetlink.open_here() as kernel:
        for link in rtnetlink.links(kernel):
            if link.name in (names.bridge, names.tunnel) or link.name.startswith(names.veth_prefix):
                with suppress(netlink.NetlinkError):
                    rtnetlink.delete_link(kernel, link.index)
        if any(link.name in (names.bridge, names.tunnel) for link in rtnetlink.links(kernel)):
            raise NetworkFailure(f"interfaces {names.bridge} or {names.tunnel} cannot be removed", code=errno.EBUSY)
