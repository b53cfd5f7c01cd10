"""The watchdog, in a process of its own: it writes where a loop stands that does not go on."""

from __future__ import annotations

import os
import subprocess
import sys

STUCK = """
import asyncio, time
from kat_platform.agent import watchdog

watchdog.STUCK_SECONDS, watchdog.LOOK_SECONDS = 0.3, 0.05

def stands_still(): time.sleep({seconds})

async def main():
    watching = asyncio.create_task(watchdog.watch_loop())
    await asyncio.sleep(0.1)
    stands_still()
    await asyncio.sleep(0.6)
    watching.cancel()

asyncio.run(main())
"""


def said(seconds: float) -> str:
    code = STUCK.replace("{seconds}", str(seconds))
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=30, check=True
    )
    return done.stderr


def test_a_loop_that_stands_still_is_told_with_its_place():
    assert "in stands_still" in said(0.8)


def test_a_loop_that_goes_on_is_not_told():
    assert said(0.01) == ""
