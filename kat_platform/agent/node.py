"""Node: the worker half of an agent. Talks to the API only, and goes on alone when the API is out of reach."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from ipaddress import IPv4Address
from typing import Any, Final

import structlog

from kat_platform import __version__
from kat_platform.agent import facts, given, tables
from kat_platform.agent.endpoint import AgentEndpoint
from kat_platform.agent.identity import OwnTls
from kat_platform.agent.journal import Journal
from kat_platform.agent.keeper import Keeper, Settings
from kat_platform.agent.kernel import AddressNews
from kat_platform.agent.link import ApiLink
from kat_platform.agent.local import LocalNode, Places
from kat_platform.agent.plugin_facts import PluginFacts
from kat_platform.agent.reach import Reach
from kat_platform.agent.report import Reporter
from kat_platform.agent.retry import TROUBLE, forever, until_done
from kat_platform.agent.tables import NodeView, fold
from kat_platform.agent.trust import NodeTrustKeeper
from kat_platform.errors import HostNotReady
from kat_platform.hooks.types import NodeFacts
from kat_platform.interfaces.dns import ListenAddress
from kat_platform.interfaces.driver import Capability, Health
from kat_platform.interfaces.network import NodeNetwork
from kat_platform.model.cluster import ClusterConfiguration
from kat_platform.model.node import Condition, NodeReport, NodeRole
from kat_platform.observability.metrics import Metrics
from kat_platform.registry.drivers import Drivers

log = structlog.get_logger(__name__)

LOOK_AROUND: Final = 5
"""The host's facts and the drivers' health are looked at every so many ticks."""

ADOPT_SECONDS: Final = 5.0
"""For how long a starting agent keeps silent until it has found again what runs; beyond that something is broken."""

SAVE_DELAY: Final = 1.0
"""Seconds for which changes of the view gather before it is written down for a time without the control plane."""

ADDRESS_SECONDS: Final = 1.0
"""Between two looks for news of the machine's own addresses, and for an endpoint that was given."""

GIVEN_SECONDS: Final = 60.0
"""An endpoint that was given is let go after so long with a control plane, if that names no node at that address."""


class NodeAgent:
    """Runs this node's instances by what the API says, and reports back."""

    def __init__(
        self,
        node: LocalNode,
        places: Places,
        drivers: Drivers,
        link: ApiLink,
        own_tls: OwnTls,
        trust: NodeTrustKeeper,
        *,
        plugin_facts: Callable[[], Awaitable[NodeFacts]],
        on_configuration: Callable[[ClusterConfiguration, tuple[str, ...]], None],
        metrics: Metrics | None = None,
    ) -> None:
        self._metrics = metrics or Metrics()
        self._node, self._places, self._drivers, self._link = node, places, drivers, link
        self._own_tls, self._trust = own_tls, trust
        trust.listeners.append(self.look_now)
        self._on_configuration = on_configuration
        self._spec = node.configuration.spec
        self._journal = Journal(places.journal)
        self.reporter = Reporter(node.node_name, link)
        self._items: dict[str, Any] = {}
        self._view = NodeView(node.node_name)
        self._has_subnet, self._overlay_up = asyncio.Event(), asyncio.Event()
        self._keeper: Keeper | None = None
        self._complete = False
        self._unsaved = asyncio.Event()
        self._sent_report: NodeReport | None = None
        self._public_key = ""
        self._look_now = asyncio.Event()
        self._plugin_facts = PluginFacts(plugin_facts, self._look_now.set)
        self._reach: Reach | None = None
        self._unheard, self._heard = True, asyncio.Event()
        self._given: given.Given | None = None
        self._attached_at = 0.0
        self.detached = True

    def look_now(self) -> None:
        """Look at what is to be reported now, not at the next tick."""
        self._look_now.set()

    async def overlay_up(self) -> IPv4Address:
        """Wait until the overlay carries traffic, by what was last known of the others; gives this node's address."""
        await self._overlay_up.wait()
        assert self._view.subnet is not None
        return self._view.subnet.network_address + 1

    async def run(self) -> None:
        """Run until cancelled."""
        self._public_key = await self._drivers.network.public_key()
        self._take_items(self._journal.load_view(), complete=False)
        self._heed_given()
        async with asyncio.TaskGroup() as group:
            group.create_task(forever("view stream", self._follow_view, again=self._heard), name="view")
            group.create_task(self.reporter.run(), name="reports")
            group.create_task(self._tick(), name="tick")
            group.create_task(self._follow_addresses(), name="addresses")
            group.create_task(self._plugin_facts.run(), name="plugin facts")
            group.create_task(self._save_views(), name="view journal")
            group.create_task(self._keep_instances(), name="instances")

    # --- the view ---------------------------------------------------------------------------------------------

    async def _follow_view(self) -> None:
        fresh: dict[str, Any] | None = {}
        try:
            async for line in self._link.view():
                if "key" in line:
                    if fresh is not None:
                        fresh[line["key"]] = line["body"]
                    else:
                        self._take_items({line["key"]: line["body"]}, complete=True)
                elif "synced" in line and fresh is not None:
                    gone = {key: None for key in self._items if key not in fresh}
                    self._take_items({**fresh, **gone}, complete=True)
                    fresh = None
                    self._attached()
        finally:
            self._complete = False
            if not self.detached:
                self.detached = True
                self._metrics.gauge("kat_agent_detached", 1)
                log.warning("detached from the control plane: going on with what was last known")

    def _attached(self) -> None:
        self.detached = False
        self._attached_at = asyncio.get_running_loop().time()
        self._metrics.gauge("kat_agent_detached", 0)
        log.info("attached to the control plane")
        if self._keeper is not None:
            self.reporter.everything_again(self._keeper.statuses())

    def _take_items(self, items: Mapping[str, Any | None], *, complete: bool) -> None:
        try:
            view = fold(self._view, items)
        except ValueError as error:
            raise HostNotReady(f"the API's view cannot be read by this version of KAT: {str(error)[:300]}") from error
        for key, body in items.items():
            if body is None:
                self._items.pop(key, None)
            else:
                self._items[key] = body
        self._view, self._complete = view, complete
        if view.cluster is not None and "cluster" in items:
            self._on_configuration(view.cluster.configuration, view.cluster.api_endpoints)
            first = () if self._given is None else (self._given.url,)
            self._link.set_endpoints((*first, *view.cluster.api_endpoints))
        if view.trust is not None and "trust" in items:
            self._trust.take(view.trust, complete=complete)
        if view.subnet is not None:
            self._has_subnet.set()
        if self._keeper is not None:
            self._keeper.publish(view, complete=complete)
        self._unsaved.set()

    def _heed_given(self) -> None:
        """Take an endpoint into use that was given, and let go of it once the cluster has told its addresses."""
        found = given.read(self._places)
        if found is not None and found == self._given and self._complete:
            told = any(found.host in node.addresses for node in self._view.nodes.values())
            if told or asyncio.get_running_loop().time() - self._attached_at > GIVEN_SECONDS:
                given.forget(self._places)
                found = None
        if found == self._given:
            return
        self._given = found
        log.info("looking for the cluster at a given endpoint" if found else "given endpoint no longer needed")
        if found is not None:
            self._link.prefer(found.url)
        self._view = replace(self._view, given=found.host if found else None)
        if self._keeper is not None:
            self._keeper.publish(self._view, complete=self._complete)

    async def _save_views(self) -> None:
        try:
            while True:
                await self._unsaved.wait()
                await asyncio.sleep(SAVE_DELAY)
                self._save_view()
        finally:
            if self._unsaved.is_set():
                self._save_view()

    def _save_view(self) -> None:
        self._unsaved.clear()
        try:
            self._journal.save_view(self._items)
        except OSError as error:
            log.warning("view not journalled", error=str(error))

    # --- instances ----------------------------------------------------------------------------------------------

    async def _keep_instances(self) -> None:
        await self._has_subnet.wait()
        subnet = self._view.subnet
        assert subnet is not None
        spec, drivers = self._spec, self._drivers
        network = NodeNetwork(
            self._node.node_name, subnet, spec.cluster_cidr, spec.service_cidr, listen_port=spec.wireguard_port
        )
        gateway = network.gateway.ip
        await until_done("network", lambda: drivers.network.configure(network))
        await until_done("mesh", lambda: drivers.network.apply_peers(tables.peers(self._view)))
        self._overlay_up.set()
        own = facts.underlay_addresses(frozenset(self._own_interfaces(str(gateway))))
        await drivers.dns.set_upstreams(facts.resolvers(frozenset({str(gateway)})))
        await until_done("DNS", lambda: drivers.dns.listen((ListenAddress(gateway),)))
        settings = Settings(
            node=self._node.node_name,
            subnet=subnet,
            domain=spec.cluster_domain,
            volume_base=self._places.rebased(spec.volume_base_path, spec.data_path),
            boot_id=facts.boot_id(),
            node_addresses=tuple(IPv4Address(address) for address in own),
        )
        keeper = Keeper(
            settings,
            drivers.runtime,
            drivers.network,
            drivers.dns,
            self._journal,
            self.reporter,
            time.time,
            self._metrics,
        )
        await until_done("containers", keeper.adopt)
        tls = self._own_tls.server(require_client=True)
        endpoint = AgentEndpoint(drivers.runtime, keeper.container_of, tls, self._own_tls.refusal)
        self._trust.listeners.append(lambda: endpoint.end_revoked(self._own_tls.trust.is_revoked))
        await until_done("agent endpoint", lambda: endpoint.start(str(gateway), spec.agent_port))
        try:
            async with asyncio.TaskGroup() as group:
                self._reach = Reach(self._other_nodes, spec.agent_port, self._on_reach)
                group.create_task(self._reach.run(), name="reach")
                group.create_task(keeper.run(), name="keeper")
                keeper.start_workers()
                self._keeper = keeper
                self._look_now.set()
                keeper.publish(self._view, complete=self._complete)
                self.reporter.everything_again(keeper.statuses())
                await until_done("collecting", keeper.collect)
        finally:
            self._keeper = None
            await endpoint.stop()

    @staticmethod
    def _own_interfaces(gateway: str) -> list[str]:
        return [name for name, address in facts.interface_addresses() if address == gateway]

    # --- the node itself ------------------------------------------------------------------------------------------

    async def _tick(self) -> None:
        count, began = 0, asyncio.get_running_loop().time()
        while True:
            try:
                if count % LOOK_AROUND == 0 or not self._well():
                    await self._look_around()
                await self._give_sign_of_life(asyncio.get_running_loop().time() - began)
            except TROUBLE as error:
                log.info("no heartbeat", error=str(error))
                self._unheard = True
                self.reporter.hold()
                if self._reach is not None:
                    self._reach.doubt()
            count += 1
            try:
                async with asyncio.timeout(self._spec.agent_tick_seconds):
                    await self._look_now.wait()
                self._look_now.clear()
                count = 0
            except TimeoutError:
                pass  # the ordinary tick

    def _well(self) -> bool:
        """Tell whether the last report said that all is well; if not, a change for the better is not to wait."""
        report = self._sent_report
        return report is not None and all(c.status for c in report.conditions if c.type in ("Ready", "DriversHealthy"))

    def _underlay(self) -> tuple[str, ...]:
        ours = self._own_interfaces(str(self._view.subnet.network_address + 1)) if self._view.subnet else []
        return facts.underlay_addresses(frozenset(ours))

    async def _follow_addresses(self) -> None:
        """Heed an endpoint that was given, and the machine's own addresses: connections from old ones are void.

        Apart from the tick, which may be waiting for somebody at an old address.
        """
        with AddressNews() as news:
            known = self._underlay()
            while True:
                await asyncio.sleep(ADDRESS_SECONDS)
                self._heed_given()
                if not news.any():
                    continue
                now = self._underlay()
                if now == known:
                    continue
                log.info("the machine's addresses have changed", before=known, now=now)
                known = now
                if self._keeper is not None:
                    self._keeper.set_node_addresses(now)
                self._look_now.set()
                await self._link.close()

    async def _give_sign_of_life(self, running: float) -> None:
        """Send a heartbeat; after a silence only once the control plane knows what has become of the instances."""
        if self._unheard:
            if self._keeper is not None:
                self.reporter.everything_again(self._keeper.statuses())
                await self.reporter.flush()
            elif running < ADOPT_SECONDS:
                return
        doubt = self._reach.doubt if self._reach is not None else lambda: None
        await self._link.heartbeat(self._spec.node_loss_timeout_seconds, doubt)
        if self._unheard:
            self._unheard = False
            self.reporter.release()
            self._heard.set()
        if self._reach is not None:
            self._reach.trust()

    def _on_reach(self, away: tables.Away) -> None:
        if self._keeper is not None:
            if self._unheard and len(away.nodes) < len(self._keeper.away.nodes):
                self._look_now.set()  # who is there again may be the control plane
            self._keeper.set_away(away)

    def _other_nodes(self) -> dict[str, IPv4Address]:
        nodes = self._view.nodes.values()
        return {n.name: n.subnet.network_address + 1 for n in nodes if n.subnet and n.name != self._node.node_name}

    async def _look_around(self) -> None:
        versions, conditions = await self._drivers_health()
        report = facts.node_report(
            data_path=self._places.data,
            addresses=self._underlay(),
            public_key=self._public_key,
            listen_port=self._spec.wireguard_port,
            versions=versions,
            plugins=await self._plugin_facts.current(),
            extra=conditions,
            images=self._keeper.images() if self._keeper is not None else (),
            trust=self._trust.facts(),
        )
        if report != self._sent_report:
            self._sent_report = report
            self.reporter.node(report.model_copy(update={"reported_at": time.time()}))

    async def _drivers_health(self) -> tuple[dict[str, str], tuple[Condition, ...]]:
        versions = {"agent": __version__}
        failed, poor = [], []
        for capability, driver in self._drivers.all():
            if capability is Capability.STORE and self._node.role is NodeRole.WORKER:
                continue  # loaded as on every node, but never started: a worker does not touch the store
            versions[capability.value] = f"{driver.info.name} {driver.info.version}"
            status = await driver.status()
            if status.health is Health.FAILED:
                failed.append(f"{capability.value}: {status.message}")
            elif status.health is Health.DEGRADED:
                poor.append(f"{capability.value}: {status.message}")
        configured = self._keeper is not None
        conditions = (
            Condition(
                type="Ready",
                status=configured and not failed,
                reason="DriverFailed" if failed else "Ready" if configured else "Starting",
                message="; ".join(failed),
            ),
            Condition(
                type="DriversHealthy",
                status=not failed and not poor,
                reason="Drivers",
                message="; ".join(failed + poor),
            ),
            Condition(type="NetworkReady", status=configured, reason="Configured" if configured else "Starting"),
        )
        return versions, conditions
