"""A small synchronous client of the API that lives in any network namespace: HTTPS, JSON, and streams of lines."""

from __future__ import annotations

import http.client
import json
import socket
import ssl
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlencode

from kat_platform.quadlet.archive import pack_files
from kat_platform.testing.netns import Namespace

Files = Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Answer:
    """A status, JSON (or text) and headers."""

    status: int
    data: Any
    headers: Mapping[str, str]


class _Inside(http.client.HTTPSConnection):
    """A connection whose socket belongs to a namespace."""

    def __init__(self, space: Namespace, host: str, port: int, tls: ssl.SSLContext, timeout: float) -> None:
        super().__init__(host, port, timeout=timeout, context=tls)
        self._space, self._tls = space, tls

    def connect(self) -> None:
        address = (self.host, self.port)
        plain = self._space.call(lambda: socket.create_connection(address, self.timeout))
        try:
            plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self.sock = self._tls.wrap_socket(plain, server_hostname="kat-api")
        except BaseException:
            plain.close()
            raise


def trust(ca: str, credential: Path | None = None) -> ssl.SSLContext:
    """Make a TLS context that trusts one CA (PEM) and shows the certificate and key in a file, if any."""
    tls = ssl.create_default_context(cadata=ca)
    if credential is not None:
        tls.load_cert_chain(credential)
    return tls


class Api:
    """Speaks with one node's API from a namespace."""

    def __init__(
        self, space: Namespace, tls: ssl.SSLContext, *, host: str = "127.0.0.1", port: int = 9115, token: str = ""
    ) -> None:
        self._space, self._tls, self._host, self._port = space, tls, host, port
        self._headers = {"Authorization": f"Bearer {token}"} if token else {}
        self._kept: http.client.HTTPConnection | None = None

    def close(self) -> None:
        """Close the connection."""
        if self._kept is not None:
            self._kept.close()
            self._kept = None

    def ask(
        self, method: str, path: str, body: Any = None, *, headers: Mapping[str, str] | None = None, **params: Any
    ) -> Answer:
        """Send one request; ``body`` is bytes or becomes JSON. Raises ``OSError`` when nobody answers."""
        data = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
        target = f"{path}?{urlencode(params, doseq=True)}" if params else path
        for attempt in (0, 1):
            fresh = self._kept is None
            if self._kept is None:
                self._kept = _Inside(self._space, self._host, self._port, self._tls, 30)
            try:
                self._kept.request(method, target, data, {**self._headers, **(headers or {})})
                found = self._kept.getresponse()
                text = found.read()
            except (OSError, http.client.HTTPException):
                self.close()
                if fresh or attempt:
                    raise
                continue  # a kept connection may have been closed by the server meanwhile
            json_like = (found.getheader("Content-Type") or "").partition(";")[0].endswith(("/json", "+json"))
            shown = json.loads(text) if json_like and text else text.decode(errors="replace")
            return Answer(found.status, shown, {k.lower(): v for k, v in found.getheaders()})
        raise AssertionError("unreachable")

    def need(self, method: str, path: str, body: Any = None, **more: Any) -> Any:
        """Send a request that must succeed, below ``/v1alpha1``; gives its JSON."""
        answer = self.ask(method, f"/v1alpha1{path}", body, **more)
        assert answer.status < 300, f"{method} {path}: {answer.status} {str(answer.data)[:800]}"
        return answer.data

    def get(self, path: str, **params: Any) -> Any:
        """Get JSON below ``/v1alpha1``."""
        return self.need("GET", path, **params)

    def apply(self, files: Files, **params: Any) -> Answer:
        """Apply a Quadlet."""
        packed = pack_files({name: text.encode() for name, text in files.items()})
        return self.ask("POST", "/v1alpha1/apply", packed, **params)

    @contextmanager
    def lines(self, path: str, timeout: float = 30, **params: Any) -> Iterator[Iterator[dict[str, Any]]]:
        """Open a stream of JSON lines."""
        connection = _Inside(self._space, self._host, self._port, self._tls, timeout)
        try:
            connection.request("GET", f"/v1alpha1{path}?{urlencode(params, doseq=True)}", headers=self._headers)
            answer = connection.getresponse()
            assert answer.status == 200, answer.read()
            yield (json.loads(line) for line in iter(answer.readline, b""))
        finally:
            connection.close()


def fetch(space: Namespace, host: str, port: int, path: str = "/", timeout: float = 3.0) -> tuple[int, str]:
    """Get one page over plain HTTP and a connection of its own, from a namespace."""

    def work() -> tuple[int, str]:
        return fetch_here(host, port, path, timeout)

    return space.call(work)


def fetch_here(host: str, port: int, path: str = "/", timeout: float = 3.0) -> tuple[int, str]:
    """Get one page from the namespace this thread is in."""
    connection = http.client.HTTPConnection(host, port, timeout=timeout)
    try:
        connection.request("GET", path, headers={"Connection": "close"})
        answer = connection.getresponse()
        return answer.status, answer.read().decode(errors="replace")
    finally:
        connection.close()


class Hammer:
    """Threads in a namespace that get a page again and again, each time over a new connection, and note what fails."""

    def __init__(self, space: Namespace, host: str, port: int, path: str = "/", *, threads: int = 2) -> None:
        self._space, self._where = space, (host, port, path)
        self._stop = threading.Event()
        self.answered = 0
        self.failures: list[tuple[float, str]] = []
        """When the failed request was sent (seconds since the epoch), and what became of it."""
        self.texts: set[str] = set()
        self._threads = [threading.Thread(target=self._work, name=f"hammer-{n}", daemon=True) for n in range(threads)]

    def _work(self) -> None:
        self._space.enter()
        host, port, path = self._where
        while not self._stop.is_set():
            began = time.time()
            try:
                status, text = fetch_here(host, port, path, timeout=10)
            except (OSError, http.client.HTTPException) as error:
                self.failures.append((began, f"after {time.time() - began:.3f} s: {error!r}"))
                continue
            if status != 200:
                self.failures.append((began, f"status {status}"))
            self.answered += 1
            self.texts.add(text)
            self._stop.wait(0.004)  # leave the machine something to change things with

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(15)
