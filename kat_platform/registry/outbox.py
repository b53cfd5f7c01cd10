"""Notifications on their way to one plugin: in order, one at a time, never holding up whoever sends them."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable

import structlog

CAPACITY = 1000
"""Notifications kept for a plugin that does not keep up; beyond it the oldest are dropped."""

log = structlog.get_logger(__name__)

Delivery = Callable[[], Awaitable[object]]
"""Delivers one notification; must not raise and must end by itself."""


class Outbox:
    """A bounded queue to one plugin. ``put`` never waits; ``run`` delivers until it is cancelled."""

    def __init__(self, plugin: str, capacity: int = CAPACITY) -> None:
        self.plugin = plugin
        self.dropped = 0
        """How many notifications were lost since the start."""
        self._waiting: deque[Delivery] = deque(maxlen=capacity)
        self._arrived = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()

    def put(self, delivery: Delivery) -> None:
        """Add a notification; if the plugin is too far behind, its oldest one is lost."""
        if len(self._waiting) == self._waiting.maxlen:
            self.dropped += 1
            if self.dropped & (self.dropped - 1) == 0:  # 1, 2, 4, 8 …: said early, and not a thousand times
                log.warning("notifications dropped", plugin=self.plugin, dropped=self.dropped)
        self._waiting.append(delivery)
        self._idle.clear()
        self._arrived.set()

    async def run(self) -> None:
        """Deliver what comes, until cancelled."""
        while True:
            await self._arrived.wait()
            self._arrived.clear()
            while self._waiting:
                await self._waiting.popleft()()
            self._idle.set()

    async def empty(self) -> None:
        """Wait until everything put so far was delivered; needs ``run`` to be running."""
        await self._idle.wait()
