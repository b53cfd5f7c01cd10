"""Api: what the routes work with. Given to every handler; holds no state of a request."""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

import aiohttp
from aiohttp import web

from kat_platform.backup.keeper import BackupKeeper
from kat_platform.errors import CutOff, Unavailable
from kat_platform.interfaces.auth import Auth, Identity, Verb
from kat_platform.interfaces.scheduler import Contributions, Scheduler
from kat_platform.interfaces.store import Store
from kat_platform.observability.metrics import Metrics
from kat_platform.pki.keyring import Keyring
from kat_platform.registry.announce import Announcer
from kat_platform.server.access import IDENTITY, Access
from kat_platform.server.audit import AuditLog
from kat_platform.server.node_leases import NodeLeases
from kat_platform.server.node_view import SharedItems
from kat_platform.server.objects import Objects
from kat_platform.server.streams import Streams
from kat_platform.state import keys
from kat_platform.state.cache import StateCache
from kat_platform.state.cluster import ClusterState
from kat_platform.state.events import EventRecorder
from kat_platform.state.repository import Repository

FRESH_SECONDS: Final = 3.0
"""How long a caller who wants the newest state waits for it."""
ALONE_SECONDS: Final = 1.0
"""As :data:`FRESH_SECONDS`, on a server that kept the caller before waiting in vain: it is asked where others are."""


@dataclass(frozen=True, slots=True)
class AgentTarget:
    """Where a node's agent answers, and the session that speaks mTLS with it; ``server_hostname`` is checked."""

    url: str
    session: aiohttp.ClientSession
    tls: ssl.SSLContext
    server_hostname: str


@dataclass(frozen=True, slots=True)
class ServerDeps:
    """What the API server is given by the composition root."""

    store: Store
    cache: StateCache
    auth: Auth
    node_name: str
    tls: ssl.SSLContext
    """Made by ``pki.tls.server_context``: a client certificate is checked when one is sent."""
    keyring: Keyring | None = None
    """The CAs whose keys this node has; the state says which of them signs."""
    scheduler: Scheduler | None = None
    contributions: Contributions = Contributions()  # noqa: RUF009 - immutable
    announce: Announcer = field(default_factory=Announcer)
    cluster_domain: str = "kat.cluster.local"
    agent_client: Callable[[str], AgentTarget] | None = None
    """Finds a node's agent, for logs and exec; raises ``Unavailable``. See ``server.agents.AgentDirectory``."""
    leader_info: Callable[[], str | None] = lambda: None
    """Name of the node that leads, as far as this one knows."""
    metrics: Metrics = field(default_factory=Metrics)
    events: EventRecorder | None = None
    """The process's recorder; it must be running. Without one the server runs its own."""
    backups: BackupKeeper | None = None
    """The backups of the node."""
    plugins_report: Callable[[], Any] = dict
    """What is installed, chosen and refused, as JSON."""
    now: Callable[[], float] = time.time


class Api:
    """The parts of one running server."""

    def __init__(self, deps: ServerDeps) -> None:
        self.deps = deps
        self.now = deps.now
        self.metrics = deps.metrics
        self.repository = Repository(deps.store)
        self.objects = Objects(deps.cache)
        self.access = Access(deps.auth, deps.now, lambda: self.state.trust)
        self.audit = AuditLog(deps.store, now=deps.now, metrics=deps.metrics)
        self.events = deps.events or EventRecorder(
            deps.store, now=deps.now, announce=deps.announce.event_recorded, metrics=deps.metrics
        )
        self.leases = NodeLeases(deps.store, lambda: self.state.configuration)
        self.streams = Streams(deps.metrics)
        self.shared = SharedItems(self.objects)
        self.reported: dict[str, int] = {}
        """Revision of the last report of each node that this server has written."""
        self.openapi: bytes = b"{}"
        self._alone = False

    @property
    def state(self) -> ClusterState:
        """The newest state."""
        return self.deps.cache.state

    def caller(self, request: web.Request) -> Identity:
        """Give who is calling."""
        return request[IDENTITY]

    def allow(self, request: web.Request, verb: Verb, resource: str, namespace: str | None, name: str = "") -> None:
        """Raise ``Denied`` unless the caller may do this too."""
        self.access.check(self.caller(request), verb, resource, namespace, name)

    async def fresh(self) -> None:
        """Wait until this server's own state has everything that was acknowledged anywhere before this call.

        Raises ``CutOff`` when the store cannot tell: this server may have been alone or asleep, and what it knows may
        be of long ago.
        """
        try:
            async with asyncio.timeout(ALONE_SECONDS if self._alone else FRESH_SECONDS):
                page = await self.deps.store.list(keys.CLUSTER, keys_only=True)
                await self.caught_up(page.revision)
            self._alone = False
        except TimeoutError:
            self._alone = True
            raise CutOff(
                f"node '{self.deps.node_name}' reaches no majority of the control-plane nodes at present",
                hint="are most of them on, and connected with each other?",
            ) from None
        except Unavailable as error:
            raise CutOff(f"node '{self.deps.node_name}' has no store: {error.message}", hint=error.hint) from None

    async def caught_up(self, revision: int) -> None:
        """Wait until this server's own state has a write, so that the caller reads what it wrote."""
        await self.deps.cache.reached(revision)
