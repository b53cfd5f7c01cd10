"""What the fake runtime holds: one container's state, and those who listen to events."""

from __future__ import annotations

import asyncio
import time
import weakref
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

from kat_platform.interfaces.runtime import Container, ContainerSpec, ContainerState, LogLine, RuntimeEvent
from kat_platform.testing.fakes.shell import Process


@dataclass(slots=True)
class Held:
    """A container of the fake runtime."""

    spec: ContainerSpec
    state: ContainerState = ContainerState.CREATED
    pid: int | None = None
    exit_code: int | None = None
    oom_killed: bool = False
    started_at: float | None = None
    finished_at: float | None = None
    lines: list[LogLine] = field(default_factory=list)
    process: Process | None = None
    task: asyncio.Task[None] | None = None
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def alive(self) -> bool:
        """Whether it has a process."""
        return self.state in (ContainerState.INITIALIZED, ContainerState.RUNNING)

    def view(self) -> Container:
        """Give what the contract tells of it."""
        return Container(
            name=self.spec.name,
            state=self.state,
            labels=dict(self.spec.labels),
            pid=self.pid,
            netns=f"/fake/netns/{self.pid}" if self.pid is not None else None,
            exit_code=self.exit_code,
            oom_killed=self.oom_killed,
            started_at=self.started_at,
            finished_at=self.finished_at,
            spec_digest=self.spec.digest(),
        )

    def print(self, line: LogLine) -> None:
        """Add a line of output."""
        self.lines.append(line)
        self.wake()

    def wake(self) -> None:
        """Tell those who follow that something changed."""
        self.changed.set()
        self.changed = asyncio.Event()

    def ended(self, exit_code: int, oom: bool) -> None:
        """Note the end of the first process."""
        task, self.task, self.process = self.task, None, None
        if task is not None:
            task.cancel()
        self.state, self.pid = ContainerState.EXITED, None
        self.exit_code, self.oom_killed, self.finished_at = exit_code, oom, time.time()
        self.wake()


class _Subscription:
    """One listener's queue, as an iterator that never ends by itself."""

    def __init__(self) -> None:
        self.queue: asyncio.Queue[RuntimeEvent] = asyncio.Queue()

    def __aiter__(self) -> AsyncIterator[RuntimeEvent]:
        return self

    async def __anext__(self) -> RuntimeEvent:
        return await self.queue.get()


class Subscribers:
    """Those who listen; one that is dropped without a word is forgotten."""

    def __init__(self) -> None:
        self._all: weakref.WeakSet[_Subscription] = weakref.WeakSet()

    def subscribe(self) -> AsyncIterator[RuntimeEvent]:
        """Listen from now on."""
        subscription = _Subscription()
        self._all.add(subscription)
        return subscription

    def tell(self, event: RuntimeEvent) -> None:
        """Hand an event to all."""
        for subscription in list(self._all):
            subscription.queue.put_nowait(event)
