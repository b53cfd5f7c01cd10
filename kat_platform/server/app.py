"""App: the HTTP server. Accepts connections, puts the routes together, and ends everything in order."""

from __future__ import annotations

import asyncio
import socket
import ssl
import warnings
from collections.abc import Callable
from typing import Any, Final

import structlog
from aiohttp import web
from aiohttp.web_protocol import RequestHandler

from kat_platform.errors import HostNotReady, KatError, PluginError
from kat_platform.hooks.types import ApiRoute
from kat_platform.interfaces.auth import Verb
from kat_platform.registry.announce import Contributed
from kat_platform.server import guard, openapi, routes
from kat_platform.server.api import AgentTarget, Api, ServerDeps
from kat_platform.server.table import PREFIX, Route

__all__ = ["AgentTarget", "ApiServer", "ServerDeps"]

log = structlog.get_logger(__name__)

HANDSHAKE_SECONDS: Final = 10.0
FIRST_REQUEST_SECONDS: Final = 15.0
"""How long a new connection may take to send the head of its first request."""
IDLE_SECONDS: Final = 75.0
MAX_CONNECTIONS: Final = 2000
CLOSE_SECONDS: Final = 3.0
_BACKLOG: Final = 256


class ApiServer:
    """The HTTP API of one control-plane node. ``cache.run()`` and, if given, ``events.run()`` run elsewhere."""

    def __init__(self, deps: ServerDeps) -> None:
        self.api = Api(deps)
        self._deps = deps
        self._runner: web.AppRunner | None = None
        self._socket: socket.socket | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._handshakes: set[asyncio.Task[None]] = set()
        self._unfollow: Callable[[], None] | None = None

    @property
    def port(self) -> int:
        """The port it listens on; 0 before :meth:`start`."""
        return 0 if self._socket is None else int(self._socket.getsockname()[1])

    async def start(self, host: str = "0.0.0.0", port: int = 9115) -> None:
        """Listen. Waits for the cache's first state; raises ``HostNotReady`` when the port is taken."""
        api = self.api
        self._socket = _listen(host, port)
        await self._deps.cache.synced()
        api.objects.start()
        self._unfollow = api.access.follow(self._deps.cache)
        await api.access.load(self._deps.store)
        table = (*routes.ALL, *plugin_routes(await self._deps.announce.api_routes()))
        api.openapi = openapi.render(table)
        self._runner = web.AppRunner(
            application(api, table),
            access_log=None,
            keepalive_timeout=IDLE_SECONDS,
            shutdown_timeout=CLOSE_SECONDS,
            auto_decompress=False,  # a body is what was sent: the archive's own limits see every byte
            handler_cancellation=True,
        )
        await self._runner.setup()
        self._spawn(self._accept(), "api-accept")
        self._spawn(api.access.run(), "api-access")
        self._spawn(api.audit.run(), "api-audit")
        if self._deps.events is None:
            self._spawn(api.events.run(), "api-events")
        log.info("api-listening", host=host, port=self.port)

    async def stop(self) -> None:
        """Close: no new connections, streams ended, requests under way finished (a few seconds), audit written."""
        self.api.streams.close()
        if self._socket is not None:
            self._socket.close()
            self._socket = None
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None
        for task in (*self._tasks, *self._handshakes):
            task.cancel()
        await asyncio.gather(*self._tasks, *self._handshakes, return_exceptions=True)
        self._tasks.clear()
        if self._unfollow is not None:
            self._unfollow()
        self.api.objects.stop()

    async def wait(self) -> None:
        """Return (or raise) when a part of the server has ended, which it never should by itself."""
        done, _ = await asyncio.wait(self._tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()

    def _spawn(self, work: Any, name: str) -> None:
        self._tasks.append(asyncio.create_task(work, name=name))

    async def _accept(self) -> None:
        """Accept connections ourselves: asyncio's own server tells nobody of a failed handshake."""
        assert self._socket is not None  # start() made it
        loop = asyncio.get_running_loop()
        listening = self._socket
        while True:
            try:
                connection, address = await loop.sock_accept(listening)
            except OSError as error:  # out of descriptors, most likely: wait for some to be closed
                if listening.fileno() < 0:
                    return
                log.warning("api-accept-failed", error=str(error))
                await asyncio.sleep(0.2)
                continue
            if self._connections() >= MAX_CONNECTIONS or self.api.streams.closing:
                connection.close()
                continue
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            task = asyncio.create_task(self._serve(connection, str(address[0])), name="api-handshake")
            self._handshakes.add(task)
            task.add_done_callback(self._handshakes.discard)

    def _connections(self) -> int:
        server = self._runner.server if self._runner is not None else None
        return len(self._handshakes) + (len(server.connections) if server is not None else 0)

    async def _serve(self, connection: socket.socket, remote: str) -> None:
        assert self._runner is not None and self._runner.server is not None  # noqa: PT018 - set up before accepting
        loop = asyncio.get_running_loop()
        try:
            _, protocol = await loop.connect_accepted_socket(
                self._runner.server,
                connection,
                ssl=self._deps.tls,
                ssl_handshake_timeout=HANDSHAKE_SECONDS,
                ssl_shutdown_timeout=2.0,
            )
        except (ssl.SSLError, ConnectionError, TimeoutError, OSError) as error:
            connection.close()
            self.api.metrics.count("kat_api_handshake_failures_total")
            log.info("tls-handshake-failed", remote=remote, reason=handshake_reason(error))
            return
        except asyncio.CancelledError:
            connection.close()
            raise
        loop.call_later(FIRST_REQUEST_SECONDS, _end_if_silent, protocol, remote)


def _listen(host: str, port: int) -> socket.socket:
    listening = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((host, port))
    except OSError as error:
        listening.close()
        raise HostNotReady(
            f"the API cannot listen on {host}:{port}: {error.strerror}",
            hint="another program has the port; change apiPort in cluster.kat, or stop that program",
        ) from error
    listening.listen(_BACKLOG)
    listening.setblocking(False)
    return listening


def application(api: Api, table: tuple[Route, ...]) -> web.Application:
    """Make the application that serves the table."""
    app = web.Application(client_max_size=0)
    for route in table:
        app.router.add_route(route.method, route.path, guard.guarded(api, route))
    app.router.add_route("*", "/{anything:.*}", guard.unknown)
    return app


def plugin_routes(given: tuple[Contributed[ApiRoute], ...]) -> tuple[Route, ...]:
    """Put plugins' routes below their plugin's path; one that takes the place of another is left out."""
    made: dict[tuple[str, str], Route] = {}
    for each in given:
        path = f"{PREFIX}/plugins/{each.plugin}/{each.value.path.lstrip('/')}"
        if (each.value.method, path) in made:
            log.warning("plugin-route-left-out", plugin=each.plugin, path=path)
            continue
        made[each.value.method, path] = Route(
            method=each.value.method,
            path=path,
            handler=_adapt(each.plugin, each.value),
            summary=each.value.summary or f"Of plugin {each.plugin}.",
            resource=f"plugins/{each.plugin}",
            verb=Verb(each.value.verb),
        )
    return tuple(made.values())


def _adapt(plugin: str, route: ApiRoute) -> Callable[[web.Request, Api], Any]:
    async def handler(request: web.Request, api: Api) -> web.StreamResponse:
        with warnings.catch_warnings():
            # The contract of hooks promises this name; aiohttp prefers a typed key.
            warnings.simplefilter("ignore", web.NotAppKeyWarning)
            request["identity"] = api.caller(request)
        try:
            return await route.handler(request)
        except (KatError, web.HTTPException):
            raise
        except Exception as error:  # a stranger's handler may raise anything; the caller learns whose fault it is
            log.exception("plugin-route-failed", plugin=plugin, path=request.path)
            raise PluginError(f"plugin '{plugin}' failed on this request: that is a bug in the plugin") from error

    return handler


def handshake_reason(error: BaseException) -> str:
    """Say in words why a TLS handshake failed."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"the client's certificate was refused: {error.verify_message}"
    if isinstance(error, ssl.SSLError):
        return error.reason or str(error)
    return str(error) or type(error).__name__


def _end_if_silent(protocol: asyncio.BaseProtocol, remote: str) -> None:
    # aiohttp has a limit for the time between requests, none for the first; how many there were it keeps to itself.
    if isinstance(protocol, RequestHandler) and getattr(protocol, "_request_count", 1) == 0:
        log.info("api-silent-connection", remote=remote, seconds=FIRST_REQUEST_SECONDS)
        protocol.force_close()
