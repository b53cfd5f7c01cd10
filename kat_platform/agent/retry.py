"""Retry: do it again, with growing pauses, for as long as it fails with an error of KAT's."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any, Final

import structlog

from kat_platform.errors import KatError

log = structlog.get_logger(__name__)

TROUBLE: Final = (KatError, OSError)
"""What may be over the next time: a failure that KAT knows, and one of the host, such as a full disk."""

LONG: Final = 10.0
"""Seconds after which a run counts as one that went well: the next pause is the first again."""


async def forever(
    what: str,
    run: Callable[[], Awaitable[Any]],
    *,
    again: asyncio.Event | None = None,
    pause: float = 0.2,
    most: float = 5.0,
) -> None:
    """Run ``run()`` again whenever it ends, with pauses from ``pause`` to ``most`` seconds; ``again`` ends a pause."""
    wait, woken = pause, again or asyncio.Event()
    clock = asyncio.get_running_loop().time
    while True:
        began = clock()
        try:
            await run()
        except TROUBLE as error:
            log.warning(f"{what} interrupted", error=str(error), retry_in=round(wait, 2))
        if clock() - began > LONG:
            wait = pause
        with suppress(TimeoutError):
            async with asyncio.timeout(wait):
                await woken.wait()
        if woken.is_set():
            woken.clear()
            wait = pause
        else:
            wait = min(most, wait * 2)


async def until_done(what: str, work: Callable[[], Awaitable[Any]]) -> None:
    """Try until it works: a node that cannot do it now must not give up on the instances it runs."""
    pause = 0.5
    while True:
        try:
            await work()
            return
        except TROUBLE as error:
            log.error(f"{what} not ready", error=str(error), retry_in=pause)
            await asyncio.sleep(pause)
            pause = min(5.0, pause * 2)
