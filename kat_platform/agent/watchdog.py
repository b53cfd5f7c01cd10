"""Watchdog: when the event loop stands still, the log says where."""

from __future__ import annotations

import asyncio
import faulthandler
import signal
import sys
from typing import Final

STUCK_SECONDS: Final = 10.0
"""Everything an agent does shares one event loop: what holds it for this long is a bug, or the machine was asleep."""
LOOK_SECONDS: Final = 2.0


async def watch_loop() -> None:
    """Have the stack of every thread written to stderr when the loop stands still, and on ``SIGUSR1``."""
    faulthandler.register(signal.SIGUSR1, file=sys.stderr, all_threads=True)
    try:
        while True:
            faulthandler.dump_traceback_later(STUCK_SECONDS, file=sys.stderr)
            await asyncio.sleep(LOOK_SECONDS)
    finally:
        faulthandler.cancel_dump_traceback_later()
        faulthandler.unregister(signal.SIGUSR1)
