"""Doing it again: pauses grow, a word ends one, and a success makes them short again."""

from __future__ import annotations

import asyncio
from itertools import pairwise

from kat_platform.agent.link import ApiLink
from kat_platform.agent.report import Reporter
from kat_platform.agent.retry import forever, until_done
from kat_platform.errors import Unavailable
from kat_platform.model.instance import InstanceStatus, Phase


async def test_a_word_ends_a_long_pause_at_once() -> None:
    tried = asyncio.Queue[float]()
    again = asyncio.Event()
    clock = asyncio.get_running_loop().time

    async def run() -> None:
        tried.put_nowait(clock())
        raise Unavailable("nobody answers")

    task = asyncio.create_task(forever("test", run, again=again, pause=0.02, most=30.0))
    try:
        async with asyncio.timeout(10):
            times = [await tried.get() for _ in range(5)]
            pauses = [later - earlier for earlier, later in pairwise(times)]
            assert all(pause >= 0.02 * 2**index * 0.9 for index, pause in enumerate(pauses)), pauses
            told = clock()
            again.set()  # the pause now is 0.32 s
            await tried.get()
            assert clock() - told < 0.3
            assert not again.is_set()
            assert await tried.get() - told < 0.3, "and the pauses begin anew"
    finally:
        task.cancel()


async def test_until_done_ends_with_the_first_success() -> None:
    left = [Unavailable("not yet")]

    async def work() -> None:
        if left:
            raise left.pop()

    async with asyncio.timeout(5):
        await until_done("test", work)
    assert not left


class Taker(ApiLink):
    """A link to nowhere that keeps what it is given."""

    def __init__(self) -> None:
        self.taken: list[tuple[set[str], float | None]] = []

    async def report(self, body: dict[str, dict[str, object]], *, patience: float | None = None) -> dict[str, object]:
        self.taken.append((set(body["instances"]), patience))
        return {}


async def test_while_held_only_a_flush_sends_and_nothing_is_lost() -> None:
    link = Taker()
    reporter = Reporter("n1", link)
    task = asyncio.create_task(reporter.run())
    try:
        reporter.hold()
        reporter.status("a/x", InstanceStatus(phase=Phase.RUNNING))
        await asyncio.sleep(0.05)
        assert link.taken == []
        await reporter.flush()
        assert link.taken == [({"a/x"}, 3.0)]
        reporter.status("a/y", InstanceStatus(phase=Phase.RUNNING))
        reporter.release()
        async with asyncio.timeout(5):
            while len(link.taken) < 2:  # noqa: ASYNC110 - another task's doing
                await asyncio.sleep(0.01)
        assert link.taken[1] == ({"a/y"}, None)
    finally:
        task.cancel()
