"""One question to one upstream server: by UDP from a port of its own, by TCP when the answer does not fit."""

from __future__ import annotations

import asyncio
import secrets

from kat_dns import reply, wire

Server = tuple[str, int]


class _Listener(asyncio.DatagramProtocol):
    """Waits for the datagram that answers the question; anything else is somebody's forgery and is passed over."""

    def __init__(self, query: wire.Query, ident: int) -> None:
        self._query, self._ident = query, ident
        self.found: asyncio.Future[reply.Reply] = asyncio.get_running_loop().create_future()

    def datagram_received(self, data: bytes, addr: object) -> None:
        try:
            answer = reply.read(data, self._query, self._ident)
        except wire.Malformed:
            return
        if not self.found.done():
            self.found.set_result(answer)

    def error_received(self, exc: Exception) -> None:
        if not self.found.done():
            self.found.set_exception(exc)

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.found.done():
            self.found.cancel()


async def exchange(server: Server, query: wire.Query) -> reply.Reply:
    """Ask one server; raises ``OSError`` or ``wire.Malformed``. The caller sets the deadline.

    A server that refuses EDNS (old home routers do) is asked once more without.
    """
    answer = await _by_udp(server, query, edns=True)
    if answer.rcode in (wire.FORMERR, wire.NOTIMP) and not answer.has_opt:
        answer = await _by_udp(server, query, edns=False)
    return await _by_tcp(server, query) if answer.truncated else answer


async def _by_udp(server: Server, query: wire.Query, *, edns: bool) -> reply.Reply:
    # A connected socket per question: the kernel chooses a random port and drops what others send to it.
    ident = secrets.randbits(16)
    loop = asyncio.get_running_loop()
    transport, listener = await loop.create_datagram_endpoint(lambda: _Listener(query, ident), remote_addr=server)
    try:
        transport.sendto(reply.ask(query, ident, edns=edns))
        return await listener.found
    finally:
        transport.abort()


async def _by_tcp(server: Server, query: wire.Query) -> reply.Reply:
    ident = secrets.randbits(16)
    reader, writer = await asyncio.open_connection(*server)
    try:
        question = reply.ask(query, ident, edns=True)
        writer.write(len(question).to_bytes(2, "big") + question)
        await writer.drain()
        size = int.from_bytes(await reader.readexactly(2), "big")
        return reply.read(await reader.readexactly(size), query, ident)
    except asyncio.IncompleteReadError as error:
        raise ConnectionResetError("the server closed the connection in the middle of its answer") from error
    finally:
        writer.close()
