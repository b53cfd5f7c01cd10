"""Agents: how the API reaches the agent of a node, over the overlay and mTLS."""

from __future__ import annotations

import ssl

import aiohttp

from kat_platform.errors import Unavailable
from kat_platform.server.api import AgentTarget
from kat_platform.state.cache import StateCache


class AgentDirectory:
    """Finds nodes' agents from the state: use it as ``ServerDeps.agent_client``."""

    def __init__(self, cache: StateCache, tls: ssl.SSLContext) -> None:
        self._cache, self._tls = cache, tls
        self._session: aiohttp.ClientSession | None = None

    def __call__(self, node: str) -> AgentTarget:
        """Give where a node's agent answers; raises ``Unavailable`` when the node has no address yet."""
        state = self._cache.state
        record = state.nodes.get(node)
        if record is None or record.overlay_address is None or state.configuration is None:
            raise Unavailable(f"node '{node}' has no address in the overlay yet", node=node)
        if self._session is None:
            # A connection for each request: one that is kept would go on with a certificate that was replaced.
            connector = aiohttp.TCPConnector(force_close=True)
            timeout = aiohttp.ClientTimeout(total=None, sock_connect=5)
            self._session = aiohttp.ClientSession(connector=connector, timeout=timeout)
        url = f"https://{record.overlay_address}:{state.configuration.spec.agent_port}"
        return AgentTarget(url, self._session, self._tls, node)

    async def close(self) -> None:
        """Close the pool."""
        if self._session is not None:
            await self._session.close()
            self._session = None
