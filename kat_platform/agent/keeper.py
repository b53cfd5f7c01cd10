"""Keeper: all instances of one node.

Follows the view, the runtime's events and its own workers, and feeds network and DNS.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, replace
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from typing import Final

import structlog

from kat_platform.agent import tables
from kat_platform.agent.addresses import next_address
from kat_platform.agent.containers import container_name, key_of
from kat_platform.agent.journal import Journal
from kat_platform.agent.memory import InstanceMemory
from kat_platform.agent.report import Reporter
from kat_platform.agent.retry import TROUBLE
from kat_platform.agent.tables import NodeView
from kat_platform.agent.worker import InstanceWorker
from kat_platform.agent.workshop import Workshop
from kat_platform.errors import KatError
from kat_platform.interfaces.dns import Dns, DnsView
from kat_platform.interfaces.driver import Collects
from kat_platform.interfaces.network import Network, Peer, ServiceTable
from kat_platform.interfaces.runtime import Container, Runtime, RuntimeEvent, RuntimeEventType
from kat_platform.model.event import EventType
from kat_platform.model.instance import InstanceStatus, Phase
from kat_platform.observability.metrics import Metrics

log = structlog.get_logger(__name__)

AT_ONCE: Final = 4
"""Containers made or started at the same time."""

SETTLE: Final = 0.002
"""Seconds to wait for more changes before the tables are made anew."""


HOLD_SECONDS: Final = 5.0
"""How long an agent that finds instances running waits for the control plane before it changes virtual IPs."""


@dataclass(frozen=True, slots=True)
class Settings:
    """What the keeper needs to know of its node."""

    node: str
    subnet: IPv4Network
    domain: str
    volume_base: Path
    boot_id: str
    node_addresses: tuple[IPv4Address, ...]


class Keeper:
    """Owns the workers. Start it once the node's network is configured."""

    def __init__(
        self,
        settings: Settings,
        runtime: Runtime,
        network: Network,
        dns: Dns,
        journal: Journal,
        reporter: Reporter,
        clock: Callable[[], float],
        metrics: Metrics | None = None,
    ) -> None:
        self._metrics = metrics or Metrics()
        self._settings, self._runtime, self._network, self._dns = settings, runtime, network, dns
        self._journal, self._reporter = journal, reporter
        self._view = NodeView(settings.node)
        self._workers: dict[str, InstanceWorker] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._launched: set[str] = set()
        self._crash: asyncio.Future[None] | None = None
        self._addresses: dict[str, str] = {}
        self._last_address: str | None = None
        self._held = False
        self._events: AsyncIterator[RuntimeEvent] | None = None
        self._dirty = asyncio.Event()
        self._published: tuple[ServiceTable | None, DnsView | None, tuple[Peer, ...] | None] = (None, None, None)
        self._serial = 0
        self._away = tables.Away()
        self._shop = Workshop(
            runtime=runtime,
            network=network,
            journal=journal,
            node=settings.node,
            subnet=settings.subnet,
            domain=settings.domain,
            volume_base=settings.volume_base,
            boot_id=settings.boot_id,
            slots=asyncio.Semaphore(AT_ONCE),
            clock=clock,
            take_address=self._take_address,
            return_address=self._return_address,
            on_status=self._on_status,
            on_event=reporter.event,
            metrics=self._metrics,
        )

    # --- the start ------------------------------------------------------------------------------------------

    async def adopt(self) -> None:
        """Find again what runs already: journal, containers and attachments of earlier processes."""
        self._events = self._runtime.events()  # before looking: no end falls between looking and listening
        memories = self._journal.load()
        containers = {key_of(c.name): c for c in await self._runtime.list_containers()}
        attached = {key: str(address) for key, address in await self._network.attachments()}
        for key, address in attached.items():
            self._addresses.setdefault(key, address)
        for key, memory in memories.items():
            if memory.address is not None:
                self._addresses[key] = memory.address
        for key in sorted(memories.keys() | containers.keys()):
            memory = memories.get(key) or InstanceMemory(key=key, phase=Phase.RUNNING)
            box = containers.get(key)
            if key in attached and box is not None and box.pid is not None and memory.attached_pid is None:
                memory = memory.model_copy(update={"address": attached[key], "attached_pid": box.pid})
            self._begin(memory, box)
        if attached:
            self._hold()
        log.info("adopted", journalled=len(memories), containers=len(containers), attached=len(attached))

    def _hold(self) -> None:
        """Leave virtual IPs as the last process left them for a moment: they are newer than the journalled view."""
        self._held = True
        asyncio.get_running_loop().call_later(HOLD_SECONDS, self._release)

    def _release(self) -> None:
        if self._held:
            self._held = False
            self._dirty.set()

    def _begin(self, memory: InstanceMemory, container: Container | None) -> InstanceWorker:
        worker = InstanceWorker(self._shop, memory, container)
        self._workers[memory.key] = worker
        self._reporter.statuses[memory.key] = worker.status()
        return worker

    def _launch(self, worker: InstanceWorker) -> None:
        key = worker.memory.key
        if key in self._launched:
            return
        self._launched.add(key)
        task = asyncio.create_task(worker.run(), name=f"instance {key}")
        self._tasks.add(task)
        task.add_done_callback(lambda done: self._ended(key, done))

    def _ended(self, key: str, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if task.cancelled():
            return
        error = task.exception()
        if error is not None:  # a bug: the agent must go down loudly, not run without one of its instances
            if self._crash is not None and not self._crash.done():
                self._crash.set_exception(error)
            return
        self._workers.pop(key, None)
        self._launched.discard(key)
        self._reporter.forget(key)
        self._dirty.set()

    # --- the view -------------------------------------------------------------------------------------------

    @property
    def view(self) -> NodeView:
        """The newest view of the cluster."""
        return self._view

    def publish(self, view: NodeView, *, complete: bool) -> None:
        """Take a new view.

        Only a ``complete`` one (seen to its end) may say that an instance is not wanted any more.
        """
        self._view = view
        for key, assignment in view.assignments.items():
            worker = self._workers.get(key)
            if worker is None:
                worker = self._begin(InstanceMemory(key=key, assignment=assignment), None)
            worker.assign(assignment)
            self._launch(worker)
        if complete:
            self._release()
            for key, worker in list(self._workers.items()):
                if key not in view.assignments:
                    worker.assign(None)
                    self._launch(worker)
        self._dirty.set()

    @property
    def away(self) -> tables.Away:
        """Who does not answer."""
        return self._away

    def set_away(self, away: tables.Away) -> None:
        """Take who does not answer: nothing is sent to instances there while there are others."""
        self._away = away
        self._dirty.set()

    def set_node_addresses(self, addresses: tuple[str, ...]) -> None:
        """Take the machine's own addresses, on which node ports answer."""
        self._settings = replace(self._settings, node_addresses=tuple(map(IPv4Address, addresses)))
        self._dirty.set()

    def start_workers(self) -> None:
        """Let the adopted instances go on as the journal says. Containers the journal does not know are left alone
        until a
        complete view tells whether anybody wants them.
        """
        for worker in list(self._workers.values()):
            if worker.assignment is not None:
                self._launch(worker)

    def statuses(self) -> Mapping[str, InstanceStatus]:
        """Give the status of every instance here, by ``NAMESPACE/ID``."""
        return {key: worker.status() for key, worker in self._workers.items()}

    def images(self) -> tuple[str, ...]:
        """Name the images that instances here have been started from: the scheduler prefers a node that has them."""
        known = [
            w.assignment.document.spec.source.image
            for w in self._workers.values()
            if w.assignment and w.memory.image_id
        ]
        return tuple(sorted({image for image in known if image}))

    def container_of(self, key: str) -> str | None:
        """Give the container's name of an instance that is here, else ``None``."""
        return container_name(key) if key in self._workers else None

    # --- tasks ------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Keep the instances until cancelled; ends with an error if a worker breaks."""
        self._crash = asyncio.get_running_loop().create_future()
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._follow_runtime(), name="runtime events")
                group.create_task(self._keep_tables(), name="service tables")
                group.create_task(self._watch_crash(), name="worker watch")
        finally:
            for task in tuple(self._tasks):
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _watch_crash(self) -> None:
        assert self._crash is not None
        await self._crash

    async def _follow_runtime(self) -> None:
        async for event in self._events or self._runtime.events():
            if event.type is RuntimeEventType.GAP:
                await self._look_again()
            elif event.type is RuntimeEventType.EXITED:
                worker = self._workers.get(key_of(event.name))
                if worker is not None:
                    worker.observe(event)
            elif event.type is RuntimeEventType.REMOVED:
                await self._maybe_removed(event.name)

    async def _maybe_removed(self, name: str) -> None:
        worker = self._workers.get(key_of(name))
        if worker is not None and worker.container is not None:
            try:
                worker.found(await self._runtime.inspect(name))
            except KatError as error:
                log.warning("cannot inspect", container=name, error=str(error))

    async def _look_again(self) -> None:
        try:
            containers = {key_of(c.name): c for c in await self._runtime.list_containers()}
        except KatError as error:
            log.warning("cannot list the containers", error=str(error))
            return
        for key, worker in list(self._workers.items()):
            box = containers.get(key)
            known = worker.container
            if (box is None) != (known is None) or (box and known and (box.state, box.pid) != (known.state, known.pid)):
                worker.found(box)

    async def _keep_tables(self) -> None:
        pause = 0.1
        while True:
            await self._dirty.wait()
            await asyncio.sleep(SETTLE)
            self._dirty.clear()
            try:
                await self._apply_tables()
                pause = 0.1
            except TROUBLE as error:
                log.warning("tables not applied", error=str(error), retry_in=pause)
                self._reporter.event(
                    "", "NetworkError", f"virtual IPs or names are out of date: {error}", EventType.WARNING
                )
                self._dirty.set()
                await asyncio.sleep(pause)
                pause = min(5.0, pause * 2)

    async def _apply_tables(self) -> None:
        local = self.statuses()
        for phase in Phase:
            self._metrics.gauge("kat_agent_instances", sum(s.phase is phase for s in local.values()), phase.value)
        table = tables.service_table(self._view, local, self._settings.node_addresses, self._away)
        peers = tables.peers(self._view)
        old_table, old_names, old_peers = self._published
        names = tables.dns_view(self._view, local, self._serial, self._away)
        if names is not None and names != old_names:
            self._serial += 1
            await self._dns.publish(replace(names, serial=self._serial))
            names = replace(names, serial=self._serial)
        if table != old_table and not self._held:
            await self._network.apply_services(table)
        if peers != old_peers:
            await self._network.apply_peers(peers)
        self._published = (old_table if self._held else table, names, peers)

    async def collect(self) -> None:
        """Let the network drop what belongs to no instance here; call it after a complete view."""
        valid = frozenset(self._workers)
        if isinstance(self._network, Collects):
            dropped = await self._network.collect(valid)
            if dropped:
                log.info("collected", what=sorted(dropped))

    # --- what workers ask and tell ---------------------------------------------------------------------------

    def _take_address(self, key: str) -> str:
        known = self._addresses.get(key)
        if known is None:
            known = str(next_address(self._settings.subnet, self._addresses.values(), self._last_address))
            self._addresses[key] = self._last_address = known
        return known

    def _return_address(self, key: str) -> None:
        self._addresses.pop(key, None)

    def _on_status(self, key: str, status: InstanceStatus) -> None:
        self._reporter.status(key, status)
        self._dirty.set()
