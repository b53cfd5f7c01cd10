"""Forwarding: one question to the upstream servers in turn, for all who ask it at the same time."""

from __future__ import annotations

import asyncio
import time
from typing import Final

import structlog

from kat_dns import reply, wire
from kat_dns.cache import Key, ReplyCache, key_of
from kat_dns.config import DnsConfig
from kat_dns.exchange import Server, exchange

log = structlog.get_logger(__name__)

_FAILED: Final = wire.Answer(wire.SERVFAIL)
_TRY_ANOTHER: Final = frozenset({wire.SERVFAIL, wire.REFUSED, wire.NOTIMP, wire.FORMERR})


class Forwarder:
    """Asks upstream servers and remembers what they said."""

    def __init__(self, config: DnsConfig) -> None:
        self._config = config
        self._cache = ReplyCache(config.cache_entries, config.cache_max_ttl, config.cache_negative_ttl)
        self._servers: tuple[Server, ...] = ()
        self._first = 0
        self._under_way: dict[Key, asyncio.Task[reply.Reply | None]] = {}
        self.forwarded = 0
        self.hits = 0
        self.failed = 0

    @property
    def servers(self) -> tuple[Server, ...]:
        """The upstream servers, in the order given."""
        return self._servers

    @property
    def cached(self) -> int:
        """How many answers are kept."""
        return len(self._cache)

    def set_servers(self, servers: tuple[Server, ...]) -> None:
        """Ask these from now on. Other servers may have other views: what the old ones said is forgotten."""
        if servers != self._servers:
            self._servers, self._first = servers, 0
            self._cache.clear()

    def remembered(self, query: wire.Query, *, limit: int) -> bytes | None:
        """Answer from memory, without waiting, if possible."""
        found = self._cache.get(key_of(query), time.monotonic())
        if found is None:
            return None
        self.hits += 1
        return reply.write(query, found[0], age=found[1], limit=limit)

    async def resolve(self, query: wire.Query, *, limit: int) -> bytes:
        """Answer by asking; SERVFAIL when nobody answers in time or too much is under way. Never raises."""
        key = key_of(query)
        task = self._under_way.get(key)
        if task is None:
            if len(self._under_way) >= self._config.max_forwarded:
                return wire.write(query, _FAILED, limit=limit, recursion=True)
            task = asyncio.create_task(self._ask(key, query), name=f"dns-forward-{key[1]}")
            self._under_way[key] = task
            task.add_done_callback(lambda _: self._under_way.pop(key, None))
        # Shielded: one who goes away must not take the answer from the others.
        found = await asyncio.shield(task)
        if found is None:
            return wire.write(query, _FAILED, limit=limit, recursion=True)
        return reply.write(query, found, age=0, limit=limit)

    async def close(self) -> None:
        """Give up what is under way."""
        tasks = list(self._under_way.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._cache.clear()

    async def _ask(self, key: Key, query: wire.Query) -> reply.Reply | None:
        self.forwarded += 1
        servers = self._servers
        last: reply.Reply | None = None
        try:
            async with asyncio.timeout(self._config.forward_timeout):
                for offset in range(len(servers)):
                    index = (self._first + offset) % len(servers)
                    answer = await self._try(servers[index], query)
                    if answer is None:
                        continue
                    last = answer
                    if answer.rcode not in _TRY_ANOTHER:
                        self._prefer(servers, index)
                        self._cache.put(key, answer, time.monotonic())
                        return answer
        except TimeoutError:
            log.warning("forwarding timed out", servers=len(servers))
        self.failed += 1
        return last

    def _prefer(self, servers: tuple[Server, ...], index: int) -> None:
        """Begin with the server that answered, so that a dead one costs its timeout once and not each time."""
        if servers is self._servers and index != self._first:
            log.info("upstream preferred", server=servers[index][0])
            self._first = index

    async def _try(self, server: Server, query: wire.Query) -> reply.Reply | None:
        try:
            async with asyncio.timeout(self._config.try_timeout):
                return await exchange(server, query)
        except (OSError, wire.Malformed) as error:  # TimeoutError is an OSError
            log.debug("upstream failed", server=server[0], error=type(error).__name__)
            return None
