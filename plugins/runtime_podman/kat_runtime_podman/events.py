"""Who hears of what happens to containers: the hub all subscribers hang on, and Podman's own event stream.

Exits come from pidfds and starts from the driver's own calls (see ``lives.py``). Podman's stream adds what somebody
else did to KAT's containers, with ``podman rm`` for example, and a break in it is a ``GAP``.
"""

from __future__ import annotations

import asyncio
import json
import weakref
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

import structlog

from kat_platform.interfaces.runtime import RuntimeEvent, RuntimeEventType

_LOG: Final = structlog.get_logger(__name__)
_QUEUE: Final = 10_000
_LINE: Final = 1 << 20


class Subscription:
    """One subscriber's events, as an iterator without end."""

    def __init__(self) -> None:
        self._queue: asyncio.Queue[RuntimeEvent] = asyncio.Queue(_QUEUE)

    def __aiter__(self) -> AsyncIterator[RuntimeEvent]:
        return self

    async def __anext__(self) -> RuntimeEvent:
        return await self._queue.get()

    def put(self, event: RuntimeEvent) -> None:
        """Add an event; a subscriber that fell far behind loses its backlog and sees ``GAP`` instead."""
        if self._queue.full():
            while not self._queue.empty():
                self._queue.get_nowait()
            event = RuntimeEvent(RuntimeEventType.GAP, at=event.at)
        self._queue.put_nowait(event)


class Hub:
    """Hands each event to all subscribers; one that was dropped is forgotten by itself."""

    def __init__(self) -> None:
        self._subscriptions: weakref.WeakSet[Subscription] = weakref.WeakSet()

    def subscribe(self) -> Subscription:
        """Listen from now on."""
        subscription = Subscription()
        self._subscriptions.add(subscription)
        return subscription

    def emit(self, event: RuntimeEvent) -> None:
        """Tell all."""
        for subscription in list(self._subscriptions):
            subscription.put(event)


async def stream(socket: Path, opened: Callable[[], None]) -> AsyncIterator[dict[str, Any]]:
    """Give Podman's container events from now on, as long as the connection lasts; ``opened`` when it stands."""
    filters = quote(json.dumps({"type": ["container"], "event": ["start", "died", "remove"]}))
    reader, writer = await asyncio.open_unix_connection(str(socket), limit=_LINE)
    try:
        request = f"GET /v4.0.0/libpod/events?stream=true&filters={filters} HTTP/1.1\r\nHost: podman\r\n\r\n"
        writer.write(request.encode())
        status = await reader.readline()
        if b" 200 " not in status:
            raise ConnectionError(f"podman refused the event stream: {status[:100]!r}")
        while (await reader.readline()).strip():
            pass
        opened()
        rest = b""
        while chunk := await _chunk(reader):
            *lines, rest = (rest + chunk).split(b"\n")
            for line in lines:
                if line.strip():
                    yield json.loads(line)
    finally:
        writer.close()


async def _chunk(reader: asyncio.StreamReader) -> bytes:
    """Read one piece of HTTP/1.1's chunked encoding (RFC 9112, 7.1); empty at the end."""
    try:
        size = int((await reader.readline()).split(b";")[0].strip() or b"0", 16)
        if size == 0:
            return b""
        data = await reader.readexactly(size + 2)
    except (asyncio.IncompleteReadError, ConnectionError):
        return b""
    return data[:-2]


class Foreign:
    """Follows Podman's stream over restarts of its service."""

    def __init__(
        self, socket: Callable[[], Path], hub: Hub, changed: Callable[[dict[str, Any]], None], wait_ready: asyncio.Event
    ) -> None:
        self._socket = socket
        self._hub = hub
        self._changed = changed
        self._wake = wait_ready
        self.connected = asyncio.Event()
        self._times = 0

    def _opened(self) -> None:
        self._times += 1
        self.connected.set()
        if self._times > 1:
            self._hub.emit(RuntimeEvent(RuntimeEventType.GAP))

    async def run(self) -> None:
        """Read until cancelled, reconnecting as soon as the service is back."""
        while True:
            await self._wake.wait()
            try:
                async for event in stream(self._socket(), self._opened):
                    self._changed(event)
            except (OSError, ValueError) as error:
                _LOG.info("podman-events-broke", error=str(error))
            self.connected.clear()
            await asyncio.sleep(0.05)
