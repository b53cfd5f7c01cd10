"""Endpoint: the agent's own HTTPS server, for logs and exec. Only control-plane nodes may call it.

It listens on the node's overlay address, so nothing outside the cluster can reach it at all.
"""

from __future__ import annotations

import asyncio
import json
import ssl
from collections import deque
from collections.abc import AsyncIterator, Callable
from typing import Any, Final

import structlog
from aiohttp import WSMsgType, web
from cryptography import x509

from kat_platform.errors import Denied, HostNotReady, KatError, NotFound, UsageError
from kat_platform.interfaces.runtime import ExecSession, LogLine, Runtime
from kat_platform.model.identity import NodeName
from kat_platform.model.node import NodeRole
from kat_platform.pki.certificates import identity_of

log = structlog.get_logger(__name__)

STDIN, STDOUT, STDERR, RESIZE, EXIT = range(5)
"""First byte of each binary frame of an exec stream."""

_CHANNELS: Final = {"stdout": STDOUT, "stderr": STDERR}


class AgentEndpoint:
    """Serves ``/agent/v1``; ``find`` gives the container of an instance that is here, ``refusal`` says why a
    certificate (DER) is not accepted although the TLS layer did (see ``pki.trust``).
    """

    def __init__(
        self,
        runtime: Runtime,
        find: Callable[[str], str | None],
        tls: ssl.SSLContext,
        refusal: Callable[[bytes], str],
    ) -> None:
        self._runtime, self._find, self._tls, self._refusal = runtime, find, tls, refusal
        self._runner: web.AppRunner | None = None
        self._open: dict[asyncio.Transport, bytes] = {}

    def end_revoked(self, revoked: Callable[[bytes], bool]) -> None:
        """End what callers have open whose certificate (DER) was revoked since it began."""
        for transport, certificate in tuple(self._open.items()):
            if revoked(certificate):
                log.warning("caller cut off: its certificate was revoked", remote=transport.get_extra_info("peername"))
                transport.abort()

    async def start(self, host: str, port: int) -> None:
        """Listen; raises ``HostNotReady`` when the address is taken."""
        app = web.Application(middlewares=[self._guard])
        app.router.add_get("/agent/v1/instances/{ns}/{id}/logs", self._logs)
        app.router.add_get("/agent/v1/instances/{ns}/{id}/exec", self._exec)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=2.0, handler_cancellation=True)
        await self._runner.setup()
        try:
            await web.TCPSite(self._runner, host, port, ssl_context=self._tls, reuse_address=True).start()
        except OSError as error:
            await self._runner.cleanup()
            raise HostNotReady(
                f"the agent cannot listen on {host}:{port}: {error.strerror or error}",
                hint="another program has the port; change agentPort in cluster.kat, or stop that program",
            ) from error

    async def stop(self) -> None:
        """Close every connection. Idempotent."""
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    @web.middleware
    async def _guard(self, request: web.Request, handler: Any) -> web.StreamResponse:
        transport = request.transport
        try:
            certificate = self._only_control_plane(request)
            if transport is not None:
                self._open[transport] = certificate
            answer: web.StreamResponse = await handler(request)
            return answer
        except KatError as error:
            body = {"code": error.code, "detail": str(error), "status": error.http_status}
            return web.json_response(body, status=error.http_status, content_type="application/problem+json")
        finally:
            if transport is not None:
                self._open.pop(transport, None)

    def _only_control_plane(self, request: web.Request) -> bytes:
        """Give the caller's certificate (DER); raises ``Denied`` for anybody but a control-plane node."""
        transport = request.transport
        tls = transport.get_extra_info("ssl_object") if transport is not None else None
        data: bytes | None = tls.getpeercert(binary_form=True) if tls is not None else None
        if data is None:
            raise Denied("the agent speaks to control-plane nodes only: no certificate was sent")
        refusal = self._refusal(data)
        if refusal:
            log.warning("caller refused", remote=request.remote, reason=refusal)
            raise Denied(refusal)
        identity = identity_of(x509.load_der_x509_certificate(data))
        if not isinstance(identity, NodeName) or identity.role is not NodeRole.CONTROL_PLANE:
            raise Denied("the agent speaks to control-plane nodes only")
        return data

    def _container(self, request: web.Request) -> str:
        key = f"{request.match_info['ns']}/{request.match_info['id']}"
        name = self._find(key)
        if name is None:
            raise NotFound(f"instance '{key}' is not on this node")
        return name

    async def _logs(self, request: web.Request) -> web.StreamResponse:
        name = self._container(request)
        query = request.query
        follow = query.get("follow", "") in ("1", "true")
        tail, since = _number(query.get("tail"), "tail"), _number(query.get("since"), "since")
        most = None if tail is None else int(tail)
        if query.get("previous", "") in ("1", "true"):
            lines = earlier_lines(self._runtime, name, tail=most, since=since)
        else:
            lines = self._runtime.logs(name, follow=follow, tail=most, since=since)
        response = web.StreamResponse(headers={"Content-Type": "application/x-ndjson"})
        started = False
        async for line in lines:
            if not started:
                await response.prepare(request)
                started = True
            await response.write(json.dumps({"at": line.at, "stream": line.stream, "text": line.text}).encode() + b"\n")
        if not started:
            await response.prepare(request)
        await response.write_eof()
        return response

    async def _exec(self, request: web.Request) -> web.StreamResponse:
        name = self._container(request)
        command = tuple(request.query.getall("command", []))
        if not command:
            raise UsageError("no command was given", hint="add ?command=PROGRAM&command=ARGUMENT")
        tty = request.query.get("tty", "") in ("1", "true")
        stdin = request.query.get("stdin", "") in ("1", "true")
        session = await self._runtime.open_exec(name, command, tty=tty, stdin=stdin)
        try:
            socket = web.WebSocketResponse(heartbeat=20.0, max_msg_size=2**20)
            await socket.prepare(request)
            await _relay(socket, session)
        finally:
            await session.close()
        return socket


async def earlier_lines(
    runtime: Runtime, name: str, *, tail: int | None = None, since: float | None = None
) -> AsyncIterator[LogLine]:
    """Give what a container printed before its last start: it is restarted in place, so its log goes on in one stream.

    Raises ``NotFound``. One that was never started, or only once, gives nothing.
    """
    container = await runtime.inspect(name)
    if container is None:
        raise NotFound(f"there is no container '{name}'")
    if container.started_at is None:
        return
    kept: deque[LogLine] = deque(maxlen=tail)
    async for line in runtime.logs(name, since=since):
        if line.at >= container.started_at:
            continue
        if tail is None:
            yield line
        else:
            kept.append(line)
    for line in kept:
        yield line


async def _relay(socket: web.WebSocketResponse, session: ExecSession) -> None:
    reading = asyncio.create_task(_feed(socket, session), name="exec input")
    try:
        async for stream, data in session.output():
            await socket.send_bytes(bytes([_CHANNELS.get(stream, STDOUT)]) + data)
        code = await session.wait()
        await socket.send_bytes(bytes([EXIT]) + json.dumps({"exitCode": code}).encode())
    except KatError as error:
        problem = {"error": {"code": error.code, "detail": error.message}}
        await socket.send_bytes(bytes([EXIT]) + json.dumps(problem).encode())
    except ConnectionError:
        pass  # the caller has gone: the session is closed by who opened it
    finally:
        reading.cancel()
        await asyncio.gather(reading, return_exceptions=True)
        await socket.close()


async def _feed(socket: web.WebSocketResponse, session: ExecSession) -> None:
    async for message in socket:
        if message.type is not WSMsgType.BINARY or not message.data:
            continue
        channel, body = message.data[0], message.data[1:]
        if channel == STDIN:
            await (session.write(body) if body else session.close_stdin())
        elif channel == RESIZE:
            size = json.loads(body)
            await session.resize(int(size["rows"]), int(size["columns"]))
    await session.close()  # the caller has gone


def _number(text: str | None, name: str) -> float | None:
    if text is None or text == "":
        return None
    try:
        return float(text)
    except ValueError:
        raise UsageError(f"'{name}' takes a number, not '{text[:40]}'") from None
