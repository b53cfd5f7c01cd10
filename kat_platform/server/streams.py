"""Streams: answers that stay open. Newline-delimited JSON, coalesced for whoever reads slowly, ended on shutdown."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from typing import Final

from aiohttp import web

from kat_platform.observability.metrics import Metrics
from kat_platform.server.index import Ref
from kat_platform.server.objects import Filter, Objects

NDJSON: Final = "application/x-ndjson"
BOOKMARK_SECONDS: Final = 10.0
"""After how long without news a watch says that it is still there, and how far it is."""
_CHUNK: Final = 256


class Mailbox:
    """What waits to be sent on one stream: each object once, however often it changed; so it cannot grow."""

    def __init__(self) -> None:
        self._refs: dict[Ref, None] = {}
        self._news = asyncio.Event()
        self.closed = False

    def put(self, refs: Iterable[Ref]) -> None:
        """Add objects that changed."""
        for ref in refs:
            self._refs[ref] = None
        if self._refs:
            self._news.set()

    def close(self) -> None:
        """Wake the reader for the last time."""
        self.closed = True
        self._news.set()

    async def take(self, timeout: float) -> list[Ref]:
        """Wait for news and take all of it; empty after ``timeout`` seconds without, or when closed."""
        try:
            async with asyncio.timeout(timeout):
                await self._news.wait()
        except TimeoutError:
            return []
        self._news.clear()
        refs, self._refs = list(self._refs), {}
        return refs


class Streams:
    """All open streams of the server, so that they can be counted and ended."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._boxes: set[Mailbox] = set()
        self._tasks: set[asyncio.Task[object]] = set()
        self.closing = False

    async def begin(self, request: web.Request) -> web.StreamResponse:
        """Send the head of a stream's answer."""
        response = web.StreamResponse(headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"})
        response.content_type = NDJSON
        await response.prepare(request)
        return response

    @asynccontextmanager
    async def open(self, kind: str, box: Mailbox) -> AsyncIterator[None]:
        """Count a stream of ``kind`` that reads from ``box``; a reader that goes away ends it quietly."""
        self._boxes.add(box)
        self._metrics.move("kat_api_streams", 1, kind)
        try:
            if self.closing:
                box.close()
            yield
        except ConnectionError:  # the reader has gone away; there is nobody to tell
            pass
        finally:
            self._metrics.move("kat_api_streams", -1, kind)
            self._boxes.discard(box)

    @asynccontextmanager
    async def task(self, kind: str) -> AsyncIterator[None]:
        """Count the running task as a stream that is cancelled on shutdown (logs and exec, which have no mailbox)."""
        task = asyncio.current_task()
        assert task is not None  # handlers always run in one
        self._tasks.add(task)
        self._metrics.move("kat_api_streams", 1, kind)
        try:
            yield
        finally:
            self._tasks.discard(task)
            self._metrics.move("kat_api_streams", -1, kind)

    def close(self) -> None:
        """End every stream; new ones end at once."""
        self.closing = True
        for box in tuple(self._boxes):
            box.close()
        for task in tuple(self._tasks):
            task.cancel("the server is shutting down")


async def watch(
    request: web.Request, streams: Streams, objects: Objects, wanted: Filter, from_revision: int | None
) -> web.StreamResponse:
    """Stream a collection: the list as ``ADDED`` and a ``BOOKMARK`` (or what changed after a revision), then changes.

    Several changes of one object may come as one; its newest form always comes. Resume from the revision of the last
    line: every line before it has been sent by then. Raises ``Compacted`` before anything is sent.
    """
    known: set[Ref] = set()
    box = Mailbox()
    stop = objects.subscribe(lambda refs: box.put(ref for ref in refs if wanted.covers(ref)))
    try:
        if from_revision is not None:
            first, known = objects.since(wanted, from_revision)
        else:
            first = objects.find(wanted)
        revision = objects.state.revision
        sender = _Sender(objects, wanted, known, from_revision or 0)
        response = await streams.begin(request)
        async with streams.open("watch", box):
            await sender.send(response, first, revision)
            await response.write(bookmark(revision))
            while not box.closed:
                refs = await box.take(BOOKMARK_SECONDS)
                revision = objects.state.revision
                if not await sender.send(response, refs, revision):
                    await response.write(bookmark(revision))
    finally:
        stop()
    return response


def line(kind: str, revision: int, body: bytes) -> bytes:
    """Give one line of a watch."""
    return b'{"type":"%s","revision":%d,"object":%s}\n' % (kind.encode(), revision, body)


def bookmark(revision: int) -> bytes:
    """Give the line that says how far a watch is."""
    return line("BOOKMARK", revision, b"null")


class _Sender:
    """Turns changed objects into lines; knows what the reader has been told of."""

    def __init__(self, objects: Objects, wanted: Filter, known: set[Ref], done: int) -> None:
        self._objects, self._wanted, self._known, self._done = objects, wanted, known, done

    async def send(self, response: web.StreamResponse, refs: list[Ref], revision: int) -> bool:
        """Send lines for ``refs``; tells whether the last of them carried ``revision``."""
        complete = False
        for start in range(0, len(refs), _CHUNK):
            parts = [part for ref in refs[start : start + _CHUNK] if (part := self._part(ref)) is not None]
            if not parts:
                continue
            # Whoever resumes from a line must have got all before it: only the last one vouches for the whole.
            complete = start + _CHUNK >= len(refs)
            lines = [line(kind, self._done, body) for kind, body in parts[:-1]]
            kind, body = parts[-1]
            lines.append(line(kind, revision if complete else self._done, body))
            await response.write(b"".join(lines))
        if complete or not refs:
            self._done = revision
        return complete

    def _part(self, ref: Ref) -> tuple[str, bytes] | None:
        body = self._objects.get(ref) if self._wanted.matches(self._objects.state, ref) else None
        if body is not None:
            kind = "MODIFIED" if ref in self._known else "ADDED"
            self._known.add(ref)
            return kind, body
        if ref not in self._known:
            return None
        self._known.discard(ref)
        return "DELETED", json.dumps({"namespace": ref.namespace, "name": ref.name}).encode()
