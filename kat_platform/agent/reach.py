"""Reach: which other nodes answer, looked at only while the control plane does not.

A node that is cut off knows the instances of others by what it was last told, and nobody tells it any more which of
them it can reach. Without looking, most requests to a virtual IP would go into the void.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from ipaddress import IPv4Address
from typing import Final

import structlog

log = structlog.get_logger(__name__)

LOOK_SECONDS: Final = 2.0
DIAL_SECONDS: Final = 1.0

Dial = Callable[[IPv4Address, int], Awaitable[bool]]


async def dial(address: IPv4Address, port: int) -> bool:
    """Tell whether a machine answers at all: a refusal is an answer."""
    try:
        async with asyncio.timeout(DIAL_SECONDS):
            _, writer = await asyncio.open_connection(str(address), port)
    except ConnectionRefusedError:
        return True
    except (OSError, TimeoutError):
        return False
    writer.close()
    with suppress(OSError, TimeoutError):
        async with asyncio.timeout(DIAL_SECONDS):
            await writer.wait_closed()
    return True


class Reach:
    """Tells ``on_change`` the names of the nodes that do not answer, for as long as there is reason for doubt.

    ``nodes`` gives the other nodes' overlay addresses as they are known now; ``port`` is that of every agent.
    """

    def __init__(
        self,
        nodes: Callable[[], Mapping[str, IPv4Address]],
        port: int,
        on_change: Callable[[frozenset[str]], None],
        *,
        knock: Dial = dial,
        pause: float = LOOK_SECONDS,
    ) -> None:
        self._nodes, self._port, self._on_change = nodes, port, on_change
        self._knock, self._pause = knock, pause
        self._doubt = asyncio.Event()
        self._away: frozenset[str] = frozenset()

    def doubt(self) -> None:
        """Begin to look: the control plane did not answer."""
        self._doubt.set()

    def trust(self) -> None:
        """Stop looking: the control plane answers, and tells who is there."""
        self._doubt.clear()
        self._tell(frozenset())

    async def run(self) -> None:
        """Look whenever there is doubt, until cancelled."""
        while True:
            await self._doubt.wait()
            nodes = self._nodes()
            answers = await asyncio.gather(*(self._knock(address, self._port) for address in nodes.values()))
            if self._doubt.is_set():
                self._tell(frozenset(name for name, there in zip(nodes, answers, strict=True) if not there))
            await asyncio.sleep(self._pause)

    def _tell(self, away: frozenset[str]) -> None:
        if away != self._away:
            self._away = away
            log.warning("nodes out of reach", nodes=sorted(away))
            self._on_change(away)
