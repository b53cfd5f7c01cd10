"""Drain: gives an instance's connections time to end before the instance does."""

from __future__ import annotations

import asyncio
from ipaddress import IPv4Address
from typing import Final

from kat_platform.agent.workshop import Workshop
from kat_platform.interfaces.network import CountsConnections
from kat_platform.model.event import EventType

SETTLE: Final = 0.25
"""Seconds between taking an instance out of load balancing and looking for connections it still has.

By then every node that can be reached has heard of it; nobody waits for their word."""

LOOK: Final = 0.1
"""Seconds to the second count of the connections that are left, growing to 1: no event tells of the last one's end."""


async def drain(shop: Workshop, key: str, address: str | None, limit: float) -> None:
    """Wait until the instance has no connection left, at most ``limit`` seconds.

    What is left then is told as an event.
    """
    await asyncio.sleep(min(limit, SETTLE))
    if address is None or not isinstance(shop.network, CountsConnections):
        return
    try:
        async with asyncio.timeout(limit):
            pause = LOOK
            while await shop.network.open_connections(IPv4Address(address)) > 0:
                await asyncio.sleep(pause)
                pause = min(1.0, pause * 1.5)
    except TimeoutError:
        text = f"connections still open {limit:g} s after it was taken out of service: they are cut"
        shop.on_event(key, "DrainTimedOut", text, EventType.WARNING)
