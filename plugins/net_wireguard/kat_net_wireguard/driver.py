"""The network driver ``wireguard``: the contract, carried out by the modules beside it."""

from __future__ import annotations

import asyncio
import functools
import socket
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from ipaddress import IPv4Address, ip_address
from typing import Any, ClassVar, TypeVar

import structlog
from pydantic import BaseModel

from kat_net_wireguard import balancer, conntrack, firewall, host, kernel, keys, link, mesh, rules, sysctl
from kat_net_wireguard.config import TunnelKind, WireGuardConfig
from kat_net_wireguard.names import Names
from kat_net_wireguard.tunnel import Tunnel
from kat_net_wireguard.userspace import UserspaceTunnel
from kat_platform.errors import HostNotReady, InvalidInput, KatError, NetworkFailure, TimedOut
from kat_platform.interfaces.driver import Capability, CheckResult, DriverContext, DriverInfo, DriverStatus, Health
from kat_platform.interfaces.network import Attachment, NodeNetwork, Peer, PeerStatus, ServiceTable

_log = structlog.get_logger(__name__)
T = TypeVar("T")
_DEADLINE_SECONDS = 20.0
_FIREWALL_SECONDS = 30.0
_GREETING_SECONDS = (0.5, 1.0, 1.0, 1.5, 1.5)
"""Before the keepalives that were held back, and before each time those that stay silent are tried again."""
_RESTART_SECONDS = (0.0, 1.0, 2.0, 5.0, 10.0)


class WireGuardNetwork:
    """The overlay on one node."""

    info: ClassVar[DriverInfo] = DriverInfo(
        name="wireguard",
        version="1.0.0",
        capability=Capability.NETWORK,
        capabilities={"dataplane": True, "encrypted": True, "isolation": True, "node_ports": True},
        summary="Routed containers, a WireGuard overlay between nodes, virtual IPs by nftables.",
    )
    Config: ClassVar[type[BaseModel]] = WireGuardConfig

    def __init__(self, config: WireGuardConfig, context: DriverContext) -> None:
        self._config = config
        self._context = context
        self._names = Names(context.instance_tag)
        self._network: NodeNetwork | None = None
        self._tunnel: Tunnel | None = None
        self._peers: tuple[Peer, ...] = ()
        self._told: dict[bytes, mesh.TunnelPeer] = {}
        self._table = ServiceTable()
        self._applied: balancer.Ruleset | None = None
        self._watchers: list[asyncio.Task[None]] = []
        self._greeting: asyncio.Task[None] | None = None
        self._trouble = ""
        self._links = asyncio.Lock()
        self._rules = asyncio.Lock()
        self._mesh = asyncio.Lock()
        self._threads = ThreadPoolExecutor(4, thread_name_prefix="kat-net")

    @classmethod
    async def check_host(cls, config: WireGuardConfig) -> tuple[CheckResult, ...]:
        """Look whether this host can carry the overlay; see :mod:`kat_net_wireguard.host`."""
        return await host.check(config)

    async def start(self) -> None:
        """Make sure the one program every operation needs is there; everything else is adopted by ``configure``."""
        await rules.run("--version")

    async def stop(self) -> None:
        """Stop watching. Interfaces, rules and the tunnel stay and go on carrying traffic."""
        for watcher in self._watchers:
            watcher.cancel()
        for watcher in self._watchers:
            with suppress(asyncio.CancelledError):
                await watcher
        self._watchers.clear()
        if self._tunnel is not None:
            await self._tunnel.close()
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def status(self) -> DriverStatus:
        """Tell how the overlay is."""
        facts: dict[str, Any] = {"interface": self._names.tunnel, "bridge": self._names.bridge}
        if self._tunnel is not None:
            facts["tunnel"] = self._tunnel.kind
        if self._trouble:
            return DriverStatus(Health.DEGRADED, self._trouble, facts)
        if self._network is None:
            return DriverStatus(Health.DEGRADED, "waiting for this node's subnet", facts)
        return DriverStatus(Health.OK, "", facts | {"subnet": str(self._network.subnet), "peers": len(self._told)})

    async def public_key(self) -> str:
        """Give the node's public key, making the private one on first use."""
        return keys.public_of(await self._thread(keys.load_or_make, self._context.data_dir))

    async def secret(self) -> bytes:
        """Give the private key, for a sealed backup."""
        return await self._thread(keys.load_or_make, self._context.data_dir)

    async def take_secret(self, secret: bytes) -> None:
        """Take over the private key of the node whose place this machine takes."""
        await self._thread(keys.take, self._context.data_dir, secret)

    async def configure(self, network: NodeNetwork) -> None:
        """Make gateway, tunnel, routes and base rules; what stands is adopted."""
        if not network.subnet.subnet_of(network.cluster_cidr) or network.service_cidr.overlaps(network.cluster_cidr):
            raise InvalidInput(
                f"subnet {network.subnet} must lie in {network.cluster_cidr}, and {network.service_cidr} outside of it"
            )
        async with self._mesh, self._rules:
            await self._thread(sysctl.apply, self._context.data_dir)
            await self._thread(link.make_gateway, self._names, network)
            await self._write_base(network)
            self._network = network
            await self._open_tunnel(network)
            if self._config.open_forward:
                await firewall.open_forward(self._names)
        if not self._watchers:
            self._watch("tunnel", self._keep_tunnel())
            if self._config.open_forward:
                self._watch("forwarding", self._keep_forwarding())

    async def _write_base(self, network: NodeNetwork) -> None:
        base = rules.base(self._names, network, self._config.trusted_sources)
        if self._applied is not None and network != self._network:
            ruleset = balancer.plan(self._table, network)
            await rules.apply(rules.replacement(self._names, base, ruleset))
            self._applied = ruleset
            return
        try:
            await rules.apply(base)  # an earlier process's services go on until the first apply_services
        except NetworkFailure as error:
            if not await rules.exists(self._names):
                raise
            _log.warning("table replaced", reason=str(error))
            await rules.apply(rules.replacement(self._names, base, balancer.Ruleset()))

    async def _open_tunnel(self, network: NodeNetwork) -> None:
        key = await self._thread(keys.load_or_make, self._context.data_dir)
        if self._tunnel is None:
            self._tunnel = await self._choose_tunnel()
        await self._tunnel.open(key, network.listen_port)
        await self._thread(link.set_up_tunnel, self._names, network)

    async def _choose_tunnel(self) -> Tunnel:
        kind = self._config.tunnel
        if kind is TunnelKind.AUTO:
            can = await self._thread(kernel.available, self._names)
            kind = TunnelKind.KERNEL if can else TunnelKind.USERSPACE
        return kernel.KernelTunnel(self._names) if kind is TunnelKind.KERNEL else self._userspace()

    def _userspace(self) -> UserspaceTunnel:
        log_file = self._context.run_dir / "wireguard-go.log"
        return UserspaceTunnel(self._names, self._config.userspace_command, log_file)

    def _watch(self, what: str, work: Any) -> asyncio.Task[None]:
        task: asyncio.Task[None] = asyncio.create_task(work, name=f"network {what}")
        self._watchers.append(task)
        return task

    async def _keep_tunnel(self) -> None:
        """Bring the tunnel back whenever its carrier dies, more and more slowly while that fails."""
        failures = 0
        while True:
            tunnel, network = self._tunnel, self._network
            if tunnel is None or network is None:
                return
            if not self._trouble:
                await tunnel.died()
                self._trouble = "the tunnel between nodes has died and is being restarted"
                _log.error("tunnel died", interface=self._names.tunnel)
            await asyncio.sleep(_RESTART_SECONDS[min(failures, len(_RESTART_SECONDS) - 1)])
            try:
                async with self._mesh:
                    await self._open_tunnel(self._network or network)
                    await self._tell_peers(self._peers)
            except (KatError, OSError) as error:
                failures += 1
                self._trouble = f"the tunnel between nodes cannot be restarted: {error}"
                _log.error("tunnel restart failed", error=str(error), failures=failures)
            else:
                failures, self._trouble = 0, ""

    async def _keep_forwarding(self) -> None:
        """Look from time to time whether a firewall started later than we did drops the overlay's packets."""
        while True:
            await asyncio.sleep(_FIREWALL_SECONDS)
            try:
                await firewall.open_forward(self._names)
            except OSError as error:
                _log.warning("firewall check failed", error=str(error))

    async def apply_peers(self, peers: tuple[Peer, ...]) -> None:
        """Make exactly these the peers, leaving the tunnels of unchanged ones alone."""
        async with self._mesh:
            await self._tell_peers(peers)

    async def _tell_peers(self, peers: tuple[Peer, ...]) -> None:
        network, tunnel = self._ready()
        own = keys.decode(await self.public_key())
        resolved = tuple([await _resolved(peer) for peer in peers])
        wanted = mesh.wanted_peers(network, own, resolved)
        current = await tunnel.peers()
        steps = mesh.changes(current, wanted, self._told, time.time())
        await tunnel.change(mesh.without_crossing(steps, current.keys(), own))
        self._peers, self._told = peers, wanted
        if mesh.added(steps, current.keys()):
            self._watchers = [watcher for watcher in self._watchers if not watcher.done()]
            self._greeting = self._watch("greeting", self._greet())

    async def _greet(self) -> None:
        """Set the keepalives that were held back, see :func:`mesh.without_crossing`, and try again who stays silent."""
        for turn, pause in enumerate(_GREETING_SECONDS):
            await asyncio.sleep(pause)
            async with self._mesh:
                if self._greeting is not asyncio.current_task():
                    return  # more peers have come: another one greets them all
                try:
                    if turn == 0:
                        await self._tell_peers(self._peers)
                        continue
                    _, tunnel = self._ready()
                    own = keys.decode(await self.public_key())
                    await tunnel.change(mesh.nudges(await tunnel.peers(), self._told, own, turn))
                except KatError as error:  # the tunnel has just died: its restart tells the peers again
                    _log.warning("greeting failed", error=str(error))

    async def peer_status(self) -> tuple[PeerStatus, ...]:
        """Read how the link to each peer is."""
        _, tunnel = self._ready()
        by_key = {keys.decode(peer.public_key): peer.node_name for peer in self._peers}
        states = await tunnel.peers()
        return tuple(
            PeerStatus(by_key[key], state.endpoint, state.last_handshake_at, state.received_bytes, state.sent_bytes)
            for key, state in states.items()
            if key in by_key
        )

    async def attach(self, attachment: Attachment) -> None:
        """Plumb one container."""
        network, _ = self._ready()
        if attachment.address.ip not in network.subnet or attachment.address.ip == network.gateway.ip:
            raise InvalidInput(f"{attachment.address.ip} is not an instance's address in {network.subnet}")
        async with self._links:
            await self._thread(link.attach, self._names, network, attachment)

    async def detach(self, instance_id: str) -> None:
        """Take one container's cable away."""
        async with self._links:
            await self._thread(link.detach, self._names, frozenset((instance_id,)))

    async def attachments(self) -> tuple[tuple[str, IPv4Address], ...]:
        """List what is attached, from the kernel."""
        cables = await self._thread(link.list_cables, self._names)
        return tuple((cable.instance_id, cable.address) for cable in cables)

    async def collect(self, valid: frozenset[str]) -> frozenset[str]:
        """Take away the cables of instances not in ``valid``."""
        async with self._links:
            return await self._thread(link.collect, self._names, valid)

    async def apply_services(self, table: ServiceTable) -> None:
        """Make exactly these the virtual IPs, in one transaction that touches only what differs."""
        network, _ = self._ready()
        async with self._rules:
            ruleset = balancer.plan(table, network)
            first = self._applied is None
            if self._applied is None:
                base = rules.base(self._names, network, self._config.trusted_sources)
                await rules.apply(rules.replacement(self._names, base, ruleset))
            elif lines := balancer.change(self._names.table, self._applied, ruleset):
                self._applied = None  # until the kernel has agreed, nobody knows what it holds
                await rules.apply("\n".join(lines) + "\n")
            before, after = balancer.udp_backends(self._table), balancer.udp_backends(table)
            self._applied, self._table = ruleset, table
            if first or before != after:
                await self._thread(self._forget_stale, network, after)

    @staticmethod
    def _forget_stale(network: NodeNetwork, allowed: Any) -> None:
        flows = conntrack.connections(protocol=conntrack.UDP)
        conntrack.forget(conntrack.stale_udp(flows, network.service_cidr, allowed))

    async def reset_connections(self, addresses: frozenset[IPv4Address]) -> None:
        """End connections to vanished addresses: how idle ends learn of it is in ``conntrack``."""
        self._ready()
        if not addresses:
            return
        listed = ", ".join(map(str, sorted(addresses)))
        await rules.apply(f"add element ip {self._names.table} gone {{ {listed} }}\n")
        ended = await self._thread(_end_connections, addresses)
        _log.info("connections reset", addresses=len(addresses), connections=ended)

    async def open_connections(self, address: IPv4Address) -> int:
        """Count the TCP connections that others still have to an address."""
        return await self._thread(conntrack.open_towards, address)

    async def reset(self) -> None:
        """Take away everything of this tag on this host."""
        await self.stop()
        self._threads = ThreadPoolExecutor(4, thread_name_prefix="kat-net")
        try:
            with suppress(HostNotReady):  # without nft there are no rules
                await rules.remove(self._names)
            await firewall.close_forward(self._names)
            await self._userspace().remove()
            await self._thread(link.remove_all, self._names)
            await self._thread(sysctl.restore, self._context.data_dir)
            (self._context.data_dir / keys.KEY_FILE).unlink(missing_ok=True)
        finally:
            self._threads.shutdown(wait=False)
        self._network, self._tunnel, self._applied, self._told, self._peers = None, None, None, {}, ()

    def _ready(self) -> tuple[NodeNetwork, Tunnel]:
        if self._network is None or self._tunnel is None:
            raise NetworkFailure("the network is not configured: this node does not know its subnet yet")
        return self._network, self._tunnel

    async def _thread(self, work: Callable[..., T], *arguments: Any) -> T:
        """Run blocking work in the driver's own few threads, with a deadline and the contract's errors."""
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(_DEADLINE_SECONDS):
                return await loop.run_in_executor(self._threads, functools.partial(work, *arguments))
        except TimeoutError as error:
            raise TimedOut(f"the kernel did not answer within {_DEADLINE_SECONDS:g} s") from error
        except OSError as error:
            raise NetworkFailure(f"{work.__name__.strip('_')}: {error}", errno=error.errno) from error


def _end_connections(addresses: frozenset[IPv4Address]) -> int:
    victims = conntrack.touching(conntrack.connections(ends=addresses), addresses)
    conntrack.forget(victims)
    conntrack.tickle(conntrack.surviving_ends(victims, addresses))
    return len(victims)


async def _resolved(peer: Peer) -> Peer:
    """Replace a host name in the endpoint by its address; a name that does not resolve now leaves the peer waiting."""
    if peer.endpoint is None:
        return peer
    name, port = peer.endpoint
    with suppress(ValueError):
        return Peer(peer.node_name, peer.subnet, peer.public_key, (str(ip_address(name)), port), peer.keepalive_seconds)
    try:
        found = await asyncio.get_running_loop().getaddrinfo(name, port, type=socket.SOCK_DGRAM)
    except OSError as error:
        _log.warning("endpoint unresolved", node=peer.node_name, endpoint=name, error=str(error))
        return Peer(peer.node_name, peer.subnet, peer.public_key, None, peer.keepalive_seconds)
    return Peer(peer.node_name, peer.subnet, peer.public_key, (str(found[0][4][0]), port), peer.keepalive_seconds)
