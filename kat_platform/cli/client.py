"""Client: one HTTPS request at a time, or a stream of lines; small, so that ``katcall`` starts quickly."""

from __future__ import annotations

import http.client
import json
import os
import socket
import ssl
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import IO, Any, Final
from urllib.parse import quote, urlencode, urlsplit

from kat_platform import errors
from kat_platform.cli.context import Context
from kat_platform.errors import InvalidInput, KatError, TimedOut, Unauthenticated, Unavailable

API: Final = "/v1alpha1"
SERVER_NAME: Final = "kat-api"
CONNECT_SECONDS: Final = 5.0
ANSWER_SECONDS: Final = 60.0
STREAM_SECONDS: Final = 45.0
"""A stream says something at least every 10 s; after this long without, the server is taken for lost."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What the server answered: JSON ``data``, and headers with lower-case names."""

    status: int
    data: Any
    headers: Mapping[str, str] = field(default_factory=dict)


def at(*parts: str) -> str:
    """Give the path of something in the API; each part is one segment."""
    return API + "".join(f"/{quote(part, safe='')}" for part in parts)


def error_of(status: int, problem: Mapping[str, Any]) -> KatError:
    """Turn a problem document into the error that stands for it: same code, same exit code."""
    kind = _CODES.get(str(problem.get("code")))
    if kind is None:
        known = {401: errors.Unauthenticated, 403: errors.Denied, 404: errors.NotFound, 409: errors.Conflict}
        kind = known.get(status, errors.InvalidInput if 400 <= status < 500 else errors.KatError)
    details = {key: value for key, value in (problem.get("details") or {}).items() if key not in ("hint", "message")}
    if problem.get("errors"):
        details["problems"] = problem["errors"]
    return kind(str(problem.get("detail") or f"the server answered {status}"), hint=problem.get("hint"), **details)


def _tree(kind: type[KatError]) -> Iterator[type[KatError]]:
    yield kind
    for each in kind.__subclasses__():
        yield from _tree(each)


_CODES: Final[dict[str, type[KatError]]] = {kind.code: kind for kind in reversed(list(_tree(KatError)))}


class Client:
    """Speaks with the API of one context; tries its servers in turn."""

    def __init__(self, context: Context) -> None:
        self.context = context
        self._tls: ssl.SSLContext | None = None
        self._servers = list(context.servers)
        self._moved = False

    @property
    def tls(self) -> ssl.SSLContext:
        """The TLS context: trusts the cluster's CA only."""
        if self._tls is None:
            self._tls = _tls(self.context)
        return self._tls

    @property
    def headers(self) -> dict[str, str]:
        """The headers that say who is calling, where a certificate does not."""
        return {"Authorization": f"Bearer {self.context.token}"} if self.context.token else {}

    def get(self, *parts: str, **params: Any) -> Any:
        """Get JSON."""
        return self.request("GET", at(*parts), params=params).data

    def post(self, *parts: str, body: Any = None) -> Any:
        """Post JSON, and give the answer's."""
        return self.request("POST", at(*parts), body=json.dumps(body or {}).encode()).data

    def request(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, Any] | None = None,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        timeout: float = ANSWER_SECONDS,
    ) -> Answer:
        """Send a request; raises the error a problem document stands for, ``Unavailable`` when no server answers."""
        with self._open(method, path, params, body, headers, timeout) as answer:
            data = answer.read()
            found = {name.lower(): value for name, value in answer.getheaders()}
            if answer.status >= 400:
                raise _problem(answer.status, data)
            return Answer(answer.status, json.loads(data) if data else None, found)

    def stream(
        self, path: str, params: Mapping[str, Any] | None = None, *, timeout: float = STREAM_SECONDS
    ) -> Iterator[dict[str, Any]]:
        """Give the lines of a stream as they come; ends when the server ends it."""
        with self._open("GET", path, params, None, None, timeout) as answer:
            if answer.status >= 400:
                raise _problem(answer.status, answer.read())
            while line := answer.readline():
                yield json.loads(line)

    def download(self, path: str, file: IO[bytes], *, timeout: float = ANSWER_SECONDS) -> int:
        """Write an answer of any size into a file; gives its bytes. Raises ``Unavailable`` when it is not whole."""
        with self._open("GET", path, None, None, None, timeout) as answer:
            if answer.status >= 400:
                raise _problem(answer.status, answer.read())
            wanted, size = int(answer.getheader("Content-Length") or -1), 0
            while part := answer.read(256 * 1024):
                try:
                    size += file.write(part)
                except OSError as error:
                    raise KatError(f"the disk does not take it: {error.strerror}") from None
            if size != wanted:
                raise Unavailable(f"only {size} of {wanted} bytes came: try again")
            return size

    @contextmanager
    def _open(
        self,
        method: str,
        path: str,
        params: Mapping[str, Any] | None,
        body: bytes | None,
        headers: Mapping[str, str] | None,
        timeout: float,
    ) -> Iterator[http.client.HTTPResponse]:
        connection = self._connect()
        given = {k: _text(v) for k, v in (params or {}).items() if v is not None and v is not False}
        if self._moved and method == "GET":  # what this client wrote through the server before must be seen here
            given["consistent"] = "true"
        query = urlencode(given)
        target = f"{path}?{query}" if query else path
        try:
            sock = connection.sock
            sock.settimeout(timeout)
            connection.request(method, target, body=body, headers={**self.headers, **(headers or {})})
            yield connection.getresponse()
        except TimeoutError:
            raise TimedOut(f"{_where(connection)} did not answer within {timeout:g} s") from None
        except (http.client.HTTPException, ssl.SSLError, OSError) as error:
            raise _broken(error, _where(connection)) from None
        finally:
            connection.close()

    def _connect(self) -> http.client.HTTPSConnection:
        failures: list[KatError] = []
        for server in tuple(self._servers):
            parts = urlsplit(server)
            try:
                connection = _Connection(parts.hostname or "", parts.port or 9115, self.tls)
                connection.connect()
                if failures:  # stay with the one that answers
                    self._servers.remove(server)
                    self._servers.insert(0, server)
                    self._moved = True
                return connection
            except TimeoutError:
                failures.append(Unavailable(f"the API at {server} does not answer", hint=_HINT))
            except (ssl.SSLError, OSError) as error:
                failures.append(_broken(error, server, self.context.name))
        raise failures[-1]


class _Connection(http.client.HTTPSConnection):
    """Checks the server's certificate for the name every control-plane node has, whatever its address."""

    def __init__(self, host: str, port: int, tls: ssl.SSLContext) -> None:
        super().__init__(host, port, timeout=CONNECT_SECONDS, context=tls)
        self._kat_tls = tls

    def connect(self) -> None:
        plain = socket.create_connection((self.host, self.port), CONNECT_SECONDS)
        try:
            plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self.sock = self._kat_tls.wrap_socket(plain, server_hostname=SERVER_NAME)
        except BaseException:
            plain.close()
            raise


_HINT: Final = "is kat-agent running there? 'katcall context ls' shows other clusters"


def _broken(error: Exception, server: str, context: str | None = None) -> KatError:
    """Say in one line why a connection failed, and what to do."""
    if isinstance(error, ssl.SSLCertVerificationError):
        which = f"context '{context}'" if context else "this context"
        return Unauthenticated(
            f"the server at {server} is not of the cluster of {which}: {error.verify_message}",
            hint="another cluster answers there (katcall context ls), or its CA was changed: get a new context from its"
            " administrator, or run 'kat-agent context' on a control-plane node",
        )
    if isinstance(error, ssl.SSLError):
        if error.reason and "ALERT" in error.reason:
            return Unauthenticated(
                f"the server at {server} refused our certificate ({error.reason.replace('_', ' ').lower()})",
                hint="it has expired, or is of another cluster or of a CA that this one has replaced; get a new context"
                " from its administrator, or run 'kat-agent context' on a control-plane node",
            )
        return Unavailable(f"no TLS with {server}: {error.reason or error}", hint=_HINT)
    if isinstance(error, ConnectionRefusedError):
        return Unavailable(f"the API at {server} does not answer: connection refused", hint=_HINT)
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error) or type(error).__name__
    return Unavailable(f"the API at {server} does not answer: {text}", hint=_HINT)


def _problem(status: int, data: bytes) -> KatError:
    try:
        problem = json.loads(data)
    except ValueError:
        problem = None
    if not isinstance(problem, dict):
        return KatError(f"the server answered {status}, and not as a KAT server does")
    return error_of(status, problem)


def _where(connection: http.client.HTTPSConnection) -> str:
    return f"https://{connection.host}:{connection.port}"


def _text(value: Any) -> str:
    return "true" if value is True else str(value)


def _tls(context: Context) -> ssl.SSLContext:
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    tls.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        tls.load_verify_locations(cadata=context.ca)
        if context.certificate and context.key and not context.token:
            _load(tls, context.certificate + "\n" + context.key)
    except (ssl.SSLError, OSError) as error:
        raise InvalidInput(f"the certificates of context '{context.name}' are unusable: {error}") from None
    return tls


def _load(tls: ssl.SSLContext, pem: str) -> None:
    # ssl reads keys from files only; this one is in memory, and nobody else's.
    handle = os.memfd_create("kat-credential", os.MFD_CLOEXEC)
    try:
        os.write(handle, pem.encode())
        tls.load_cert_chain(f"/proc/self/fd/{handle}")
    finally:
        os.close(handle)
