"""Control: the control-plane half of an agent.

Store, cache, API and leadership, in one process with the worker half.
"""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import Callable
from typing import Final

import structlog

from kat_platform.agent.backups import keeper_of
from kat_platform.agent.identity import OwnTls
from kat_platform.agent.local import LocalNode, Places
from kat_platform.agent.trust import NodeTrustKeeper
from kat_platform.backup.key import load_or_derive
from kat_platform.hooks.types import LeadershipChange
from kat_platform.interfaces.scheduler import Contributions
from kat_platform.interfaces.store import Change, Leadership
from kat_platform.leader.backup import BackupTask
from kat_platform.leader.controller import Controller
from kat_platform.leader.election import Election, follow_leader
from kat_platform.leader.notify import Notifier
from kat_platform.leader.sweep import Sweeper
from kat_platform.model.cluster import ClusterConfiguration
from kat_platform.observability.metrics import Metrics
from kat_platform.pki.keyring import Keyring
from kat_platform.registry.announce import Announcer
from kat_platform.registry.drivers import Drivers
from kat_platform.server.agents import AgentDirectory
from kat_platform.server.app import ApiServer, ServerDeps
from kat_platform.state import keys
from kat_platform.state.cache import StateCache
from kat_platform.state.cluster import ClusterState
from kat_platform.state.events import EventRecorder

log = structlog.get_logger(__name__)

LEADER_SECONDS: Final = 2
"""Seconds for which a leader that gives no sign keeps its office; the store may make it longer. As short as a lease can
be: a leader that is taken for dead wrongly costs nothing but another election, since every write of it is fenced."""


class ControlPlane:
    """One control-plane node's share in running the cluster."""

    def __init__(
        self,
        node: LocalNode,
        places: Places,
        drivers: Drivers,
        announcer: Announcer,
        keyring: Keyring,
        own_tls: OwnTls,
        trust: NodeTrustKeeper,
        metrics: Metrics,
        plugins_report: Callable[[], object],
    ) -> None:
        self._node, self._places, self._drivers, self._announcer = node, places, drivers, announcer
        self._keyring, self._metrics, self._plugins_report = keyring, metrics, plugins_report
        self._own_tls, self._trust = own_tls, trust
        self.cache = StateCache(drivers.store)
        self.recorder = EventRecorder(drivers.store, now=time.time, announce=announcer.event_recorded, metrics=metrics)
        self._backups = keeper_of(node, places, drivers, self.cache, load_or_derive(places.pki, keyring))
        self._leader_name: str | None = None
        self._contributions = Contributions()

    async def run(self, listening: asyncio.Event) -> None:
        """Run until cancelled; ``listening`` is set once the API answers. The store must have been started."""
        self._contributions = await self._announcer.scheduler_contributions()
        agents = AgentDirectory(self.cache, self._own_tls.client())
        server = ApiServer(self._deps(self._own_tls.server(), agents))
        spec = self._node.configuration.spec
        election = Election(
            self._drivers.store,
            self._node.node_name,
            self._term,
            ttl=LEADER_SECONDS,
            on_change=self._on_leadership,
        )
        unfollow = self.cache.subscribe(self._on_state)
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self.cache.run(), name="state cache")
                group.create_task(self.recorder.run(), name="event recorder")
                await self.cache.synced()
                await server.start("0.0.0.0", spec.api_port)
                listening.set()
                group.create_task(server.wait(), name="api server")
                group.create_task(election.run(), name="election")
                following = follow_leader(self._drivers.store, self.cache, self._set_leader)
                group.create_task(following, name="leader watch")
                group.create_task(self._announcer.run(), name="hook notifications")
        finally:
            unfollow()
            await server.stop()
            await agents.close()

    def _deps(self, tls: ssl.SSLContext, agents: AgentDirectory) -> ServerDeps:
        return ServerDeps(
            store=self._drivers.store,
            cache=self.cache,
            auth=self._drivers.auth,
            node_name=self._node.node_name,
            tls=tls,
            keyring=self._keyring,
            scheduler=self._drivers.scheduler,
            contributions=self._contributions,
            announce=self._announcer,
            cluster_domain=self._node.configuration.spec.cluster_domain,
            agent_client=agents,
            leader_info=lambda: self._leader_name,
            metrics=self._metrics,
            events=self.recorder,
            backups=self._backups,
            plugins_report=self._plugins_report,
        )

    async def write_configuration(self, configuration: ClusterConfiguration) -> None:
        """Make this the cluster's configuration: it was given to this node offline, with ``kat-agent configure``."""
        revision = await self._drivers.store.put(keys.CLUSTER, configuration.to_json())
        await self.cache.reached(revision)

    async def _term(self, leadership: Leadership) -> None:
        controller = Controller(
            self._drivers.store,
            self.cache,
            self._drivers.scheduler,
            self.recorder,
            metrics=self._metrics,
            contributions=lambda: self._contributions,
        )
        sweeper = Sweeper(self._drivers.store, self.cache)
        notifier = Notifier(self.cache, self._announcer)
        notifier.start()
        try:
            async with asyncio.TaskGroup() as group:
                sweeping = group.create_task(sweeper.run(leadership), name="sweeper")
                backups = BackupTask(self._backups, self.cache, self.recorder, self._metrics)
                saving = group.create_task(backups.run(), name="backups")
                await controller.lead(leadership)
                sweeping.cancel()
                saving.cancel()
        finally:
            notifier.stop()

    def _on_state(self, state: ClusterState, changes: tuple[Change, ...]) -> None:
        """Take the key of a new CA as soon as it is in the store."""
        if state.trust is not None and any(change.entry.key == keys.TRUST for change in changes):
            self._trust.hold(state.trust)

    def _on_leadership(self, leads: bool) -> None:
        self._metrics.gauge("kat_leader", 1 if leads else 0)
        if leads:
            self._metrics.count("kat_leader_elections_total")
            self._leader_name = self._node.node_name
        elif self._leader_name == self._node.node_name:
            self._leader_name = None
        self._announcer.leadership_changed(LeadershipChange(self._node.node_name, leads))

    def _set_leader(self, name: str | None) -> None:
        self._leader_name = name
