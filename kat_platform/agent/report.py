"""Report: sends what changed to the control plane, coalesced; nothing is lost while it is out of reach."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Mapping
from typing import Any, Final

import structlog

from kat_platform.agent.link import ApiLink
from kat_platform.errors import KatError
from kat_platform.model.event import Event, EventType
from kat_platform.model.instance import InstanceStatus
from kat_platform.model.node import NodeReport

log = structlog.get_logger(__name__)

GATHER: Final = 0.004
"""Seconds to wait for more of the same burst before sending."""

FLUSH_PATIENCE: Final = 3.0
"""Seconds for which one server may keep a report waiting that must be taken before the next heartbeat."""

EVENTS_KEPT: Final = 1000
"""Events kept while the control plane is out of reach; older ones are dropped, and their number is told."""


class Reporter:
    """Holds what has not been acknowledged yet. :meth:`run` sends it."""

    def __init__(self, node: str, link: ApiLink) -> None:
        self._node, self._link = node, link
        self._statuses: dict[str, InstanceStatus] = {}
        self._report: NodeReport | None = None
        self._events: deque[Event] = deque(maxlen=EVENTS_KEPT)
        self._dropped = 0
        self._wake, self._free = asyncio.Event(), asyncio.Event()
        self._free.set()
        self._sending = asyncio.Lock()
        self.statuses: dict[str, InstanceStatus] = {}
        """The newest status of every instance here, acknowledged or not."""

    def status(self, key: str, status: InstanceStatus) -> None:
        """Take an instance's new status."""
        self.statuses[key] = status
        self._statuses[key] = status
        self._wake.set()

    def forget(self, key: str) -> None:
        """Drop what is known of an instance that is gone."""
        self.statuses.pop(key, None)
        self._statuses.pop(key, None)

    def node(self, report: NodeReport) -> None:
        """Take the node's new report."""
        self._report = report
        self._wake.set()

    def event(self, key: str, reason: str, message: str, type_: EventType) -> None:
        """Take an event about an instance (``NAMESPACE/ID``), or about the node when ``key`` is empty."""
        namespace, _, name = key.partition("/")
        now = time.time()
        if len(self._events) == EVENTS_KEPT:
            self._dropped += 1
        self._events.append(
            Event(
                type=type_,
                reason=reason,
                object_kind="Instance" if name else "Node",
                object_name=name or self._node,
                namespace=namespace,
                message=message,
                source=f"agent/{self._node}",
                first_at=now,
                last_at=now,
            )
        )
        self._wake.set()

    def everything_again(self, statuses: Mapping[str, InstanceStatus]) -> None:
        """Send all statuses once more: after the connection was lost nobody knows what arrived."""
        self._statuses.update(statuses)
        self._wake.set()

    def hold(self) -> None:
        """Let only :meth:`flush` send from now on: the control plane does not answer, and each try takes its time."""
        self._free.clear()

    def release(self) -> None:
        """Send again as soon as there is something to send."""
        self._free.set()

    async def flush(self) -> None:
        """Send now what has not been acknowledged, to whoever takes it; raises what kept it from being taken."""
        await self._send(FLUSH_PATIENCE)

    async def run(self) -> None:
        """Send until cancelled; what could not be sent is kept and tried again."""
        pause = 0.2
        while True:
            await self._wake.wait()
            await self._free.wait()
            await asyncio.sleep(GATHER)
            self._wake.clear()
            try:
                await self._send(None)
                pause = 0.2
            except KatError as error:
                log.warning("report not taken", error=str(error), retry_in=pause)
                self._wake.set()
                await asyncio.sleep(pause)
                pause = min(5.0, pause * 2)

    async def _send(self, patience: float | None) -> None:
        async with self._sending:
            await self._send_now(patience)

    async def _send_now(self, patience: float | None) -> None:
        statuses, self._statuses = self._statuses, {}
        report, self._report = self._report, None
        events = list(self._events)
        if not (statuses or report or events):
            return
        body: dict[str, Any] = {
            "instances": {key: status.to_wire() for key, status in statuses.items()},
            "events": [event.to_wire() for event in events],
        }
        if report is not None:
            body["node"] = report.to_wire()
        try:
            await self._link.report(body, patience=patience)
        except KatError:
            self._statuses = {**statuses, **self._statuses}
            self._report = self._report or report
            raise
        for _ in range(min(len(events), len(self._events))):
            self._events.popleft()
        if self._dropped:
            log.warning("events dropped while the control plane was out of reach", count=self._dropped)
            self._dropped = 0
