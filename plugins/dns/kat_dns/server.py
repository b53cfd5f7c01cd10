"""The sockets: UDP read in batches straight from the event loop, TCP with limits on number, size and patience."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Callable, Coroutine
from typing import Any, Final

from kat_dns.batch import Datagrams
from kat_dns.responder import Responder
from kat_dns.upstream import Forwarder
from kat_dns.wire import Query

BATCH: Final = 64
"""Packets read per wake-up at most, so that a flood cannot keep the loop from everything else."""
BUFFER_BYTES: Final = 1 << 20

Spawn = Callable[[Coroutine[Any, Any, None]], None]


class UdpServer:
    """Answers datagrams on one socket."""

    def __init__(self, sock: socket.socket, responder: Responder, forwarder: Forwarder, spawn: Spawn) -> None:
        self.sock = sock
        self.queries = 0
        self.dropped = 0
        self._responder, self._forwarder, self._spawn = responder, forwarder, spawn
        for option in (socket.SO_RCVBUF, socket.SO_SNDBUF):
            sock.setsockopt(socket.SOL_SOCKET, option, BUFFER_BYTES)
        self._datagrams = Datagrams(sock, BATCH)
        asyncio.get_running_loop().add_reader(sock.fileno(), self._readable)

    def close(self) -> None:
        """Stop answering."""
        asyncio.get_running_loop().remove_reader(self.sock.fileno())
        self.sock.close()

    def _readable(self) -> None:
        """Answer what has arrived."""
        count, lost = self._datagrams.serve(self._responder.ready.get, self._answer)
        self.queries += count
        self.dropped += lost

    def _answer(self, packet: bytes, index: int) -> bytes | None:
        answer = self._responder.respond(packet)
        if not isinstance(answer, Query):
            return answer
        remembered = self._forwarder.remembered(answer, limit=answer.limit)
        if remembered is None:
            self._spawn(self._forward(answer, self._datagrams.sender(index)))
        return remembered

    async def _forward(self, query: Query, sender: tuple[str, int]) -> None:
        answer = await self._forwarder.resolve(query, limit=query.limit)
        with contextlib.suppress(OSError):  # the socket may have been closed, or be full: as above
            self.sock.sendto(answer, sender)


class TcpServer:
    """Answers streams on one socket: two bytes of length before each message (RFC 7766)."""

    def __init__(self, responder: Responder, forwarder: Forwarder, *, connections: int, idle: float) -> None:
        self.queries = 0
        self.dropped = 0
        self._responder, self._forwarder = responder, forwarder
        self._limit, self._idle = connections, idle
        self._open: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None

    async def start(self, sock: socket.socket) -> None:
        """Accept connections on a bound socket."""
        self._server = await asyncio.start_server(self._connected, sock=sock, limit=1 << 17)

    async def close(self) -> None:
        """Stop accepting, and end what is open."""
        if self._server is not None:
            self._server.close()
        for task in list(self._open):
            task.cancel()
        await asyncio.gather(*self._open, return_exceptions=True)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        if len(self._open) >= self._limit or task is None:
            self.dropped += 1
            writer.close()
            return
        self._open.add(task)
        try:
            async with asyncio.timeout(None) as deadline:
                while True:
                    # One message must come, and its answer be taken, within the idle time.
                    deadline.reschedule(asyncio.get_running_loop().time() + self._idle)
                    size = int.from_bytes(await reader.readexactly(2), "big")
                    answer = await self._answer(await reader.readexactly(size))
                    if answer is None:
                        return
                    writer.write(len(answer).to_bytes(2, "big") + answer)
                    await writer.drain()
        except (OSError, asyncio.IncompleteReadError):  # closed or silent (TimeoutError is an OSError): nothing to do
            pass
        finally:
            self._open.discard(task)
            writer.close()

    async def _answer(self, packet: bytes) -> bytes | None:
        self.queries += 1
        answer = self._responder.respond(packet, stream=True)
        if not isinstance(answer, Query):
            return answer
        limit = 0xFFFF
        return self._forwarder.remembered(answer, limit=limit) or await self._forwarder.resolve(answer, limit=limit)
