"""Link: the agent's way to the API. The same on every node, also on one that runs the API itself."""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any, Final, TypeVar

import aiohttp
import structlog

from kat_platform import __version__
from kat_platform.errors import Denied, KatError, NotFound, StoreFull, Unauthenticated, Unavailable
from kat_platform.model.version import AGENT

T = TypeVar("T")
log = structlog.get_logger(__name__)

SERVER_NAME: Final = "kat-api"
"""Name every control-plane node's certificate carries: the API's identity does not depend on its address."""

SILENCE: Final = 25.0
"""Seconds without a line (the API pings every 10) after which a stream is taken for dead."""

CALL_TIMEOUT: Final = 10.0

PATIENCE: Final = 2.0
"""Seconds for which one server may keep a heartbeat waiting, at most: the store answers one in milliseconds."""
_STATUSES: Final[dict[int, type[KatError]]] = {401: Unauthenticated, 403: Denied, 404: NotFound}


class ApiLink:
    """Speaks for one node to whichever control-plane node answers; remembers the one that did last."""

    def __init__(self, node: str, endpoints: Sequence[str], tls: ssl.SSLContext) -> None:
        self._node, self._tls = node, tls
        self._endpoints = list(endpoints)
        self._session: aiohttp.ClientSession | None = None
        self._closing: set[asyncio.Task[None]] = set()
        self._moved = asyncio.Event()

    def set_endpoints(self, endpoints: Sequence[str]) -> None:
        """Take the control plane's addresses as they are now, keeping the present one first."""
        fresh = list(dict.fromkeys(endpoints))
        if fresh:
            current = [e for e in self._endpoints[:1] if e in fresh]
            self._endpoints = current + [e for e in fresh if e not in current]

    def prefer(self, endpoint: str) -> None:
        """Go on with this endpoint, at once."""
        self._endpoints = [endpoint, *(each for each in self._endpoints if each != endpoint)]
        self._leave_stream()

    def _leave_stream(self) -> None:
        self._moved.set()
        self._moved = asyncio.Event()

    def _fail_over(self, failed: str) -> None:
        """Go on with the next endpoint, unless another call has done so already; the view stream follows."""
        if self._endpoints[0] == failed:
            self._endpoints.append(self._endpoints.pop(0))
            self._leave_stream()

    def _http(self) -> aiohttp.ClientSession:
        if self._session is None or self._session.closed:
            self._session = self._new_session(limit=8, keepalive_timeout=60)
        return self._session

    def _new_session(self, **options: Any) -> aiohttp.ClientSession:
        headers = {"User-Agent": f"{AGENT}{__version__}"}  # by which the API tells who is too far from it
        return aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=self._tls, **options), headers=headers)

    def reconnect(self) -> None:
        """Make new connections for calls from now on: those made before carry a certificate that will not do for long.

        A view that is being streamed goes on: who reads it was looked at when it began.
        """
        session, self._session = self._session, None
        if session is not None:
            task = asyncio.create_task(_close_later(session), name="old connections")
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)

    async def close(self) -> None:
        """Close every connection; the next call opens new ones. Idempotent."""
        if self._session is not None:
            await self._session.close()
        for task in self._closing:
            task.cancel()
        await asyncio.gather(*self._closing, return_exceptions=True)

    async def view(self) -> AsyncIterator[dict[str, Any]]:
        """Stream the node's view, line by line; raises ``Unavailable`` when the stream ends or breaks."""
        endpoint, moved = self._endpoints[0], self._moved
        url = f"{endpoint}/v1alpha1/nodes/{self._node}/view"
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=CALL_TIMEOUT, sock_read=SILENCE)
        # A session of its own, so that it outlives those of calls when the certificate is renewed.
        session = self._new_session()
        asked = session.get(url, timeout=timeout, server_hostname=SERVER_NAME, read_bufsize=2**20)
        try:
            async with session, await _unless(moved, asked) as answer:
                self._see(endpoint, answer)
                await self._check(answer)
                async for line in _lines(answer.content, moved):
                    yield json.loads(line)
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
            self._fail_over(endpoint)
            raise Unavailable(f"the API's view stream broke: {str(error) or type(error).__name__}") from error
        raise Unavailable("the API ended the view stream")

    async def report(self, body: dict[str, Any], *, patience: float | None = None) -> dict[str, Any]:
        """Send a report; gives the API's answer.

        With ``patience`` (seconds) it goes to the first control-plane node that takes it within that; without, to the
        present one only.
        """
        if patience is None:
            return await self._post("report", body)
        return await self._by_turns("report", body, patience)

    async def heartbeat(self, ttl: float, on_silence: Callable[[], None] = lambda: None) -> None:
        """Give a sign of life, good for ``ttl`` seconds, to the first control-plane node that takes it.

        A server that hangs must not cost the node its life: each is given a quarter of that time at most. The first
        that does not take it is told with ``on_silence``, before the others are asked.
        """
        await self._by_turns("heartbeat", {"ttlSeconds": ttl}, max(1.0, min(ttl / 4, PATIENCE)), on_silence)

    async def renew(self, csr: str) -> str:
        """Have a signing request (PEM) for this node signed; gives the certificate (PEM)."""
        return str((await self._post("renew", {"csr": csr})).get("certificate", ""))

    async def enrol(self) -> dict[str, Any]:
        """Have this node's member of the store announced to the others."""
        return await self._post("membership", {})

    async def promote(self) -> None:
        """Have this node's member of the store given its vote."""
        await self._post("membership/vote", {})

    async def _by_turns(
        self, what: str, body: dict[str, Any], patience: float, on_silence: Callable[[], None] = lambda: None
    ) -> dict[str, Any]:
        for _ in range(len(self._endpoints) - 1):
            try:
                return await self._post(what, body, timeout=patience)
            except Unavailable as error:
                log.info(f"{what} not taken", error=str(error))
                on_silence()
        return await self._post(what, body, timeout=patience)

    async def _post(self, what: str, body: dict[str, Any], *, timeout: float = CALL_TIMEOUT) -> dict[str, Any]:
        endpoint = self._endpoints[0]
        url = f"{endpoint}/v1alpha1/nodes/{self._node}/{what}"
        limit = aiohttp.ClientTimeout(total=timeout)
        try:
            async with self._http().post(url, json=body, timeout=limit, server_hostname=SERVER_NAME) as answer:
                if not what.startswith("membership"):  # there a 503 only means: not yet
                    self._see(endpoint, answer)
                await self._check(answer)
                found = await answer.json()
                return found if isinstance(found, dict) else {}
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
            self._fail_over(endpoint)
            raise Unavailable(f"the API did not take the {what}: {str(error) or type(error).__name__}") from error

    def _see(self, endpoint: str, answer: aiohttp.ClientResponse) -> None:
        """Leave a server that cannot serve: one that is cut off from the store answers, but knows nothing new."""
        if answer.status >= 500 and answer.status != StoreFull.http_status:
            self._fail_over(endpoint)

    @staticmethod
    async def _check(answer: aiohttp.ClientResponse) -> None:
        if answer.status < 400:
            return
        text = (await answer.text())[:500]
        try:
            detail = str(json.loads(text).get("detail", text))
        except ValueError:
            detail = text
        raise _STATUSES.get(answer.status, Unavailable)(f"the API answered {answer.status}: {detail}")


async def _close_later(session: aiohttp.ClientSession) -> None:
    """Close a session once the calls under way on it have ended."""
    try:
        await asyncio.sleep(CALL_TIMEOUT)
    finally:
        await session.close()


async def _lines(content: aiohttp.StreamReader, moved: asyncio.Event) -> AsyncIterator[bytes]:
    """Split into lines of any length (the reader's own line limit is too small for large items).

    Ends when ``moved`` is set: the server was found silent by another call, so nothing more is to be hoped from it.
    """
    rest = b""
    while True:
        chunk = await _unless(moved, content.readany())
        if not chunk:
            return
        *whole, rest = (rest + chunk).split(b"\n")
        for line in whole:
            if line:
                yield line


async def _unless(moved: asyncio.Event, work: Awaitable[T]) -> T:
    """Wait for a server's answer, but not once ``moved`` is set; raises ``Unavailable`` then."""

    async def answer() -> T:
        return await work

    doing = asyncio.create_task(answer(), name="view answer")
    gone = asyncio.create_task(moved.wait(), name="view moved")
    try:
        await asyncio.wait((doing, gone), return_when=asyncio.FIRST_COMPLETED)
        if not doing.done():
            raise Unavailable("the view stream moves to another server: this one does not answer")
        return doing.result()
    finally:
        doing.cancel()
        gone.cancel()
