"""``logs --previous``: what a container printed before its last start, out of the one stream its log is."""

from __future__ import annotations

import asyncio

import pytest

from kat_platform.agent.endpoint import earlier_lines
from kat_platform.errors import NotFound
from kat_platform.interfaces.runtime import ContainerSpec, LogLine
from kat_platform.testing.fakes.runtime import FakeRuntime


async def given(runtime, **more):
    return [line.text async for line in earlier_lines(runtime, "web", **more)]


async def once_more(runtime, *texts):
    await runtime.init("web")
    started = (await runtime.start_container("web")).started_at
    for text in texts:
        runtime.containers["web"].print(LogLine(started, "stdout", text))
    await asyncio.sleep(0.002)  # so that the next start is later
    return started


async def test_only_lines_of_earlier_runs_are_given():
    runtime = FakeRuntime()
    with pytest.raises(NotFound):
        await given(runtime)
    runtime.add_image("localhost/a:1")
    await runtime.create(ContainerSpec("web", "localhost/a:1"))
    assert await given(runtime) == [], "it was never started"
    await once_more(runtime, "first at once", "first")
    assert await given(runtime) == []
    runtime.die("web")
    assert await given(runtime) == [], "the run that has just ended is the newest one, not an earlier one"
    second = await once_more(runtime, "second at once", "second")
    assert await given(runtime) == ["first at once", "first"]
    runtime.die("web")
    await once_more(runtime, "third")
    assert await given(runtime) == ["first at once", "first", "second at once", "second"]
    assert await given(runtime, tail=1) == ["second"]
    assert await given(runtime, tail=0) == []
    assert await given(runtime, since=second) == ["second at once", "second"]
