"""Time that leaps: what happens in memory alone need not be waited for, however long it takes."""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


class _Leaping(selectors.DefaultSelector):
    """Never waits: the time for which nothing would come counts as passed."""

    leapt = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None or timeout <= 0:
            return super().select(timeout)
        found = super().select(0)
        if not found:
            self.leapt += timeout
        return found


class LeapingLoop(asyncio.SelectorEventLoop):
    """An event loop whose time leaps to the next timer once there is nothing else to do. It is for what has neither
    threads nor other processes: on them it does not wait.
    """

    def __init__(self) -> None:
        self._leaping = _Leaping()
        super().__init__(self._leaping)

    def time(self) -> float:
        """Tell the loop's time, which is ahead of the machine's by all leaps."""
        return super().time() + self._leaping.leapt


class LoopClock:
    """The clock of a fake that goes by its loop's time."""

    def now(self) -> float:
        """Tell the loop's time."""
        return asyncio.get_running_loop().time()

    async def sleep(self, seconds: float) -> None:
        """Sleep on the loop."""
        await asyncio.sleep(seconds)


def leap(work: Coroutine[Any, Any, T]) -> T:
    """Do something on a loop of its own whose time leaps."""
    with asyncio.Runner(loop_factory=LeapingLoop) as runner:
        return runner.run(work)
