"""Reach: which other nodes answer this one.

The control plane takes a node for lost only after ``nodeLossTimeoutSeconds``, and nobody tells a node that is cut off
anything any more. A node that did not look itself would send part of the requests to virtual IPs into the void.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from ipaddress import IPv4Address
from typing import Final

import structlog

from kat_platform.agent.tables import Away

log = structlog.get_logger(__name__)

LOOK_SECONDS: Final = 1.0
LOOKS_PER_SECOND: Final = 20
"""Of all nodes together: where there are many, each is looked at less often."""
MISSES: Final = 3
"""In a row, and without a pause in between, until a node counts as away: a packet or two may be lost."""
DIAL_SECONDS: Final = 0.7

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


def counted(misses: Mapping[str, int], answers: Mapping[str, bool]) -> dict[str, int]:
    """Count how often in a row each node that was looked at has not answered; others are forgotten. Pure."""
    return {name: 0 if there else misses.get(name, 0) + 1 for name, there in answers.items()}


class Reach:
    """Tells ``on_change`` which nodes do not answer, and whether the control plane does.

    ``nodes`` gives the other nodes' overlay addresses as they are known now; ``port`` is that of every agent.
    """

    def __init__(
        self,
        nodes: Callable[[], Mapping[str, IPv4Address]],
        port: int,
        on_change: Callable[[Away], None],
        *,
        knock: Dial = dial,
        pause: float = LOOK_SECONDS,
    ) -> None:
        self._nodes, self._port, self._on_change = nodes, port, on_change
        self._knock, self._pause = knock, pause
        self._at_once = asyncio.Event()
        self._misses: dict[str, int] = {}
        self._away = Away()

    def doubt(self) -> None:
        """Heed that the control plane did not answer."""
        if not self._away.cut_off:
            self._at_once.set()
            self._tell(Away(self._away.nodes, cut_off=True))

    def trust(self) -> None:
        """Heed that the control plane answers."""
        if self._away.cut_off:
            self._at_once.set()
            self._tell(Away(self._away.nodes))

    async def run(self) -> None:
        """Look until cancelled."""
        while True:
            self._at_once.clear()
            nodes = self._nodes()
            answers = await asyncio.gather(*(self._knock(address, self._port) for address in nodes.values()))
            self._misses = counted(self._misses, dict(zip(nodes, answers, strict=True)))
            away = frozenset(name for name, missed in self._misses.items() if missed >= MISSES)
            self._tell(Away(away, self._away.cut_off))
            if any(0 < missed < MISSES for missed in self._misses.values()):
                continue
            with suppress(TimeoutError):
                async with asyncio.timeout(max(self._pause, len(nodes) / LOOKS_PER_SECOND)):
                    await self._at_once.wait()

    def _tell(self, away: Away) -> None:
        if away == self._away:
            return
        if away.nodes != self._away.nodes:
            log.warning("nodes out of reach", nodes=sorted(away.nodes))
        self._away = away
        self._on_change(away)
