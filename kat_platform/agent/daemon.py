"""Daemon: the composition root of ``kat-agent run``.

Loads the plugins, starts the parts in order, ends them in order.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable
from pathlib import Path

import structlog

from kat_platform.agent.control import ControlPlane
from kat_platform.agent.identity import OwnTls
from kat_platform.agent.leave import refuse_left
from kat_platform.agent.link import ApiLink
from kat_platform.agent.local import AgentLock, LocalNode, Membership, Places, interruption, load_node, save_node
from kat_platform.agent.membership import StoreMember
from kat_platform.agent.node import NodeAgent
from kat_platform.agent.renewal import Renewal
from kat_platform.agent.trust import NodeTrustKeeper
from kat_platform.agent.watchdog import watch_loop
from kat_platform.errors import Conflict, KatError
from kat_platform.interfaces.driver import Capability, Driver, DriverContext
from kat_platform.model.cluster import ClusterConfiguration
from kat_platform.model.identity import NodeName
from kat_platform.model.node import NodeRole
from kat_platform.observability.metrics import Metrics
from kat_platform.pki.keyring import Keyring
from kat_platform.registry.catalog import Catalog
from kat_platform.registry.plugins import Plugins, load_plugins
from kat_platform.registry.report import inspect_plugins

log = structlog.get_logger(__name__)


def chosen_drivers(configuration: ClusterConfiguration) -> dict[Capability, str]:
    """Give the driver's name for each capability."""
    return {capability: getattr(configuration.spec.plugins, capability.value) for capability in Capability}


def plugins_for(node: LocalNode, places: Places) -> Plugins:
    """Load what the configuration chooses; raises one ``PluginError`` with every fault."""
    spec = node.configuration.spec

    def context(capability: Capability, name: str) -> DriverContext:
        return places.context(node, capability, name)

    return load_plugins(chosen_drivers(node.configuration), spec.plugin_config, context, Catalog.read())


def refuse_unfinished(places: Places) -> None:
    """Raise ``Conflict`` on a node whose recovery was interrupted: its state is not to be acted on."""
    if places.unfinished.exists():
        raise Conflict(
            interruption(places),
            hint="run 'kat-agent recover --from-backup' once more, or 'kat-agent reset' to begin anew",
        )


class Daemon:
    """One running agent."""

    def __init__(self, data_path: Path) -> None:
        self._places = Places(data_path)
        self._node = load_node(self._places)
        self._lock = AgentLock(self._places)
        self._metrics = Metrics()

    async def run(self) -> None:
        """Run until SIGTERM or SIGINT; raises when a part breaks that the agent cannot go on without."""
        refuse_left(self._places)
        self._lock.acquire()
        try:
            refuse_unfinished(self._places)
            plugins = plugins_for(self._node, self._places)
            await self._serve(plugins)
        finally:
            self._lock.release()

    async def _serve(self, plugins: Plugins) -> None:
        stopping = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stopping.set)
        started: list[Driver] = []
        work = asyncio.create_task(self._work(plugins, started), name="agent")
        ending = asyncio.create_task(stopping.wait(), name="signals")
        try:
            await asyncio.wait((work, ending), return_when=asyncio.FIRST_COMPLETED)
        finally:
            log.info("stopping", containers="left running")
            for task in (work, ending):
                task.cancel()
            await asyncio.gather(work, ending, return_exceptions=True)
            await _stop_all(started)
        if not work.cancelled() and (error := work.exception()) is not None:
            raise error

    async def _work(self, plugins: Plugins, started: list[Driver]) -> None:
        drivers = plugins.drivers
        async with asyncio.TaskGroup() as group:
            for capability, driver in drivers.all():
                if capability is not Capability.STORE:  # only on the control plane, and only once the overlay is up
                    group.create_task(_start(driver, started), name=f"start {driver.info.name}")
        own_tls = OwnTls(self._places)
        link = self._link(own_tls)
        own_tls.on_replace(link.reconnect)
        trust = NodeTrustKeeper(self._node.node_name, self._places, own_tls)
        own_tls.on_replace(trust.told)
        name = NodeName(self._node.cluster_id, self._node.node_name, self._node.role)
        renewal = Renewal(name, own_tls, link.renew, stale=trust.stale)
        trust.listeners.append(renewal.look)
        worker = self._worker(plugins, link, own_tls, trust)
        async with asyncio.TaskGroup() as group:
            if self._node.role is NodeRole.CONTROL_PLANE:
                control = self._control(plugins, worker, link, own_tls, trust, started)
                group.create_task(control, name="control plane")
            group.create_task(renewal.run(), name="certificate renewal")
            group.create_task(worker.run(), name="node")
            group.create_task(watch_loop(), name="watchdog")

    async def _control(
        self,
        plugins: Plugins,
        worker: NodeAgent,
        link: ApiLink,
        own_tls: OwnTls,
        trust: NodeTrustKeeper,
        started: list[Driver],
    ) -> None:
        """Start the store, whose members meet in the overlay, and then all that is built on it."""
        store = plugins.drivers.store
        address = await worker.overlay_up()
        member = StoreMember(self._node, self._places, store, link, address, self._on_membership)
        await member.prepare()
        keyring = Keyring.load(self._places.pki)
        trust.use_keyring(keyring)
        trust.store_starts(store)
        await _start(store, started)
        await member.complete()
        worker.look_now()  # the last report may say that the store does not run: until the next the node is not ready
        listening = asyncio.Event()
        control = ControlPlane(
            self._node,
            self._places,
            plugins.drivers,
            plugins.announcer,
            keyring,
            own_tls,
            trust,
            self._metrics,
            self._plugins_report,
        )
        async with asyncio.TaskGroup() as group:
            group.create_task(control.run(listening), name="control plane parts")
            group.create_task(self._take_over_pending(control, listening), name="pending configuration")
            group.create_task(trust.follow_turns(store), name="trust of the store")

    def _on_membership(self, membership: Membership) -> None:
        self._node = self._node.model_copy(update={"membership": membership})
        save_node(self._places, self._node)

    def _link(self, own_tls: OwnTls) -> ApiLink:
        node = self._node
        endpoints = node.api_endpoints or (f"https://127.0.0.1:{node.configuration.spec.api_port}",)
        return ApiLink(node.node_name, endpoints, own_tls.client())

    def _worker(self, plugins: Plugins, link: ApiLink, own_tls: OwnTls, trust: NodeTrustKeeper) -> NodeAgent:
        return NodeAgent(
            self._node,
            self._places,
            plugins.drivers,
            link,
            own_tls,
            trust,
            plugin_facts=plugins.announcer.node_facts,
            on_configuration=self._on_configuration,
            metrics=self._metrics,
        )

    def _on_configuration(self, configuration: ClusterConfiguration, endpoints: tuple[str, ...]) -> None:
        """Keep the cluster's configuration on disk, for the next start."""
        if self._places.pending.exists():
            return  # the operator's own, given offline, goes first
        known = self._node
        fresh = known.model_copy(
            update={"configuration": configuration, "api_endpoints": endpoints or known.api_endpoints}
        )
        if fresh != known:
            self._node = fresh
            save_node(self._places, fresh)
            if configuration.spec.plugins != known.configuration.spec.plugins:
                log.warning("the configuration chooses other plugins: restart kat-agent to use them")

    async def _take_over_pending(self, control: ControlPlane, listening: asyncio.Event) -> None:
        """Write a configuration that was given offline into the store, now that the agent runs with it."""
        await listening.wait()
        if not self._places.pending.exists():
            return
        await control.write_configuration(self._node.configuration)
        self._places.pending.unlink()
        save_node(self._places, self._node)
        log.info("configuration taken over by the cluster")

    def _plugins_report(self) -> object:
        spec = self._node.configuration.spec
        return inspect_plugins(chosen_drivers(self._node.configuration), spec.plugin_config, Catalog.read()).to_wire()


async def _start(driver: Driver, started: list[Driver]) -> None:
    log.info("starting", driver=driver.info.name, version=driver.info.version)
    started.append(driver)
    await driver.start()


async def _stop_all(drivers: list[Driver]) -> None:
    for driver in reversed(drivers):
        try:
            async with asyncio.timeout(10.0):
                await driver.stop()
        except (KatError, TimeoutError) as error:
            log.warning("driver did not stop in order", driver=driver.info.name, error=str(error))


def run_daemon(data_path: Path, *, loop_factory: Callable[[], asyncio.AbstractEventLoop] | None = None) -> None:
    """Run an agent in this process to its end; raises what ended it."""
    daemon = Daemon(data_path)
    with asyncio.Runner(loop_factory=loop_factory) as runner:
        runner.run(daemon.run())
