"""Calls to Podman's service: podman-py's HTTP client on threads of a small pool, each call with a deadline.

podman-py's managers inspect after most operations; its plain requests do just what they are told, over Unix-socket
connections that stay open. Its client is not thread safe, so each thread has its own.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

import requests
import structlog
import urllib3
from podman.api.client import APIClient
from podman.errors import APIError, PodmanError

from kat_platform.errors import TimedOut, Unavailable

_LOG: Final = structlog.get_logger(__name__)
_API_VERSION: Final = "4.0.0"
"""Version of Podman's API spoken; every Podman from 4.0 on answers to it."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What the service said: HTTP status and decoded JSON (or ``None``)."""

    status: int
    body: Any

    @property
    def message(self) -> str:
        """Podman's own words about an error."""
        if isinstance(self.body, dict):
            return str(self.body.get("message") or self.body.get("cause") or f"status {self.status}")
        return f"status {self.status}"

    @property
    def absent(self) -> bool:
        """Whether the object is not there; of one that vanishes meanwhile Podman says so with status 500."""
        return self.status == 404 or (self.status >= 400 and "no such container" in self.message)


class PodmanClient:
    """Asks Podman's service at ``socket()``, which is looked up anew whenever a connection is made."""

    def __init__(self, socket: Callable[[], Path], answers: asyncio.Event, *, parallel: int, timeout: float) -> None:
        self._socket = socket
        self._answers = answers
        self._timeout = timeout
        self._parallel = parallel
        self._pool: ThreadPoolExecutor | None = None
        self._local = threading.local()

    def open(self) -> None:
        """Make the pool; its threads start with the first calls."""
        if self._pool is None:
            self._pool = ThreadPoolExecutor(self._parallel, thread_name_prefix="podman-api")

    def close(self) -> None:
        """Let go of the pool without waiting for calls under way (they end by their own deadline)."""
        pool, self._pool = self._pool, None
        if pool is not None:
            pool.shutdown(wait=False, cancel_futures=True)

    async def call(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, str] | None = None,
        json_body: str | None = None,
        timeout: float | None = None,
    ) -> Answer:
        """Make one call; ``path`` follows ``/libpod``. Raises ``TimedOut`` or ``Unavailable``; never for a status.

        The deadline covers waiting for a thread too. A cancelled caller leaves at once; the thread is free again
        when the service answers or the deadline passes.
        """
        if self._pool is None:
            raise Unavailable("the podman driver is not started")
        limit = self._timeout if timeout is None else timeout
        deadline = time.monotonic() + limit
        try:
            async with asyncio.timeout(limit):
                await self._answers.wait()  # a service being started again is worth waiting for
                return await asyncio.get_running_loop().run_in_executor(
                    self._pool, self._blocking, method, path, dict(params or {}), json_body, deadline
                )
        except TimeoutError:
            raise TimedOut(f"podman did not answer {method} {path} within {limit:g} s", path=path) from None

    def _blocking(
        self, method: str, path: str, params: dict[str, str], json_body: str | None, deadline: float
    ) -> Answer:
        left = deadline - time.monotonic()
        if left <= 0:
            raise TimedOut(f"podman was too busy to take {method} {path}", path=path)
        try:
            return self._request(method, path, params, json_body, left)
        except requests.Timeout:
            raise TimedOut(f"podman did not answer {method} {path} in time", path=path) from None
        except (requests.RequestException, urllib3.exceptions.HTTPError, APIError, PodmanError, OSError) as error:
            self._local.client = None
            raise Unavailable(f"podman's service does not answer: {error}", path=path) from error

    def _request(self, method: str, path: str, params: dict[str, str], json_body: str | None, left: float) -> Answer:
        client = self._client()
        headers = {"Content-Type": "application/json"} if json_body is not None else {}
        response = getattr(client, method.lower())(
            path, params=params, data=json_body, headers=headers, timeout=(5.0, left)
        )
        body: Any = None
        if response.content:
            try:
                body = response.json()
            except ValueError:
                body = response.text
        return Answer(response.status_code, body)

    def _client(self) -> APIClient:
        """Give this thread's client; a service started anew has another socket, and gets another client."""
        uri = f"http+unix://{quote(str(self._socket()), safe='')}"
        client: APIClient | None = getattr(self._local, "client", None)
        if client is None or getattr(self._local, "uri", "") != uri:
            client = APIClient(base_url=uri, version=_API_VERSION)
            client.trust_env = False  # no proxy lookup nor .netrc on each call
            self._local.client, self._local.uri = client, uri
        return client
