"""Node leases: a node is alive as long as its heartbeats come. A heartbeat writes nothing to disk."""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import Callable
from typing import Final

import structlog

from kat_platform.errors import NotFound
from kat_platform.interfaces.store import Store
from kat_platform.model.cluster import ClusterConfiguration, ClusterConfigurationSpec
from kat_platform.state import keys

log = structlog.get_logger(__name__)

_DEFAULT: Final = ClusterConfigurationSpec()


class NodeLeases:
    """The leases of the nodes that send their heartbeats to this server; another server makes its own."""

    def __init__(self, store: Store, configuration: Callable[[], ClusterConfiguration | None]) -> None:
        self._store, self._configuration = store, configuration
        self._leases: dict[str, int] = {}
        self._written: dict[str, int] = {}
        self._locks: dict[str, asyncio.Lock] = {}

    @property
    def ttl(self) -> int:
        """Seconds for which one heartbeat counts: the cluster's ``nodeLossTimeoutSeconds``, rounded up."""
        configuration = self._configuration()
        spec = _DEFAULT if configuration is None else configuration.spec
        return max(1, math.ceil(spec.node_loss_timeout_seconds))

    async def beat(self, node: str, *, seen: int, at: int) -> int:
        """Take a heartbeat; gives the seconds until the next must have come.

        ``seen`` is the revision of the node's key in the state of revision ``at``. When it is not our own write, the
        key hangs on another server's lease: the node has changed servers and come back. It is then written again,
        for that lease runs out.
        """
        async with self._locks.setdefault(node, asyncio.Lock()):
            lease = self._leases.get(node)
            if lease is not None:
                try:
                    ttl = (await self._store.keep_alive(lease)).ttl
                    if seen != self._written.get(node) and at >= self._written.get(node, 0):
                        await self._write(node, lease)
                    return ttl
                except NotFound:
                    log.info("node-lease-ended", node=node)
                    self._leases.pop(node, None)
            granted = await self._store.lease(self.ttl)
            await self._write(node, granted.id)
            self._leases[node] = granted.id
            return granted.ttl

    async def _write(self, node: str, lease: int) -> None:
        value = json.dumps({"node": node}).encode()
        self._written[node] = await self._store.put(keys.alive(node), value, lease=lease)

    async def drop(self, node: str) -> None:
        """Forget a node that was removed; its key vanishes."""
        lease = self._leases.pop(node, None)
        self._locks.pop(node, None)
        self._written.pop(node, None)
        if lease is not None:
            await self._store.revoke(lease)
