"""Client: one HTTPS request at a time, or a stream of lines; small, so that ``katcall`` starts quickly."""

from __future__ import annotations

import http.client
import json
import os
import ssl
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import IO, Any, Final
from urllib.parse import quote, urlencode, urlsplit

from kat_platform import errors
from kat_platform.cli.context import Context
from kat_platform.cli.race import API_PORT, CONNECT_SECONDS, NobodyAnswered, race
from kat_platform.errors import CutOff, InvalidInput, KatError, TimedOut, Unauthenticated, Unavailable

API: Final = "/v1alpha1"
ANSWER_SECONDS: Final = 60.0
PATIENCE_SECONDS: Final = 10.0
"""How long a server may leave a reading request without any answer before another one is asked instead."""
CUT_OFF_SECONDS: Final = 10.0
"""For how long a server that is cut off from the store is not asked whether it still is: that takes 3 s."""
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
    """Speaks with the API of one context, through whichever of its servers answers first; stays with that one.

    Where a context has several servers, each must show at its first request that it reaches the store (``consistent``):
    what this client, or another one of the same user's before it, wrote through another server must be seen. One that
    cannot is left for another. When none can, one is read from all the same, and ``warn`` is told so; none is written
    through.
    """

    def __init__(self, context: Context, warn: Callable[[str], None] = lambda text: None) -> None:
        self.context = context
        self._warn = warn
        self._tls: ssl.SSLContext | None = None
        self._servers = context.servers
        self._caught_up: str | None = context.servers[0] if len(context.servers) == 1 else None
        """The server that has shown since our last write through any other that it lacks nothing."""
        self._cut_off: dict[str, tuple[CutOff, float]] = {}
        """What the servers said that could not show that, and until when they are not asked again."""
        self._warned = False

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
        given = {k: _text(v) for k, v in (params or {}).items() if v is not None and v is not False}
        send = _Send(method, path, given, body, {**self.headers, **(headers or {})}, timeout)
        connection, answer = self._ask(send)
        try:
            yield answer
        except TimeoutError:
            raise _late(connection, timeout) from None
        except (http.client.HTTPException, ssl.SSLError, OSError) as error:
            raise _broken(error, _where(connection)) from None
        finally:
            connection.close()

    def _ask(self, send: _Send) -> tuple[http.client.HTTPSConnection, http.client.HTTPResponse]:
        """Send a request and give the beginning of its answer.

        What only reads is asked of another server where one breaks off or says nothing. What writes is not: it may
        have been done. Only a server that says it is cut off has surely done nothing.
        """
        reads, fresh = send.method == "GET", "consistent" not in send.params
        again = reads and len(self.context.servers) > 1
        while True:
            server, connection = self._connect()
            alone = self._said_cut_off(server) if fresh else None
            asked = fresh and server != self._caught_up and alone is None
            again = again and alone is None  # what needs the store takes long now, wherever it is asked
            wait = min(send.timeout, PATIENCE_SECONDS) if again else send.timeout
            try:
                if alone is not None:
                    self._go_on(alone, reads=reads)
                if not reads and server != self._caught_up:
                    self._caught_up = None
                answer = send.through(connection, consistent=asked, wait=wait)
                if asked and answer.status == CutOff.http_status:
                    raise _problem(answer.status, answer.read())
                if asked and answer.status < 400:
                    self._caught_up, self._warned = server, False
                    self._cut_off.clear()
                return connection, answer
            except CutOff as error:
                connection.close()
                if alone is not None:
                    raise
                now = time.monotonic()
                known = {each: found for each, found in self._cut_off.items() if now < found[1]}
                self._cut_off = {**known, server: (error, now + CUT_OFF_SECONDS)}
                if 2 * len(self._cut_off) <= len(self.context.servers):  # else there is no majority anywhere
                    self._put_last(server)
            except (http.client.HTTPException, OSError) as error:
                connection.close()
                if not again:
                    late = isinstance(error, TimeoutError)
                    raise (_late(connection, wait) if late else _broken(error, _where(connection))) from None
                again = False
                self._put_last(server)
            except BaseException:
                connection.close()
                raise

    def _said_cut_off(self, server: str) -> CutOff | None:
        error, until = self._cut_off.get(server, (None, 0.0))
        return error if time.monotonic() < until else None

    def _go_on(self, alone: CutOff, *, reads: bool) -> None:
        """Make do with a server that is cut off, because no better one answers: to read only, and with a word."""
        if not reads:
            raise CutOff(f"nothing was changed: {alone.message}", hint=alone.hint)
        if not self._warned:
            self._warn(f"what follows may be out of date: {alone.message}")
        self._warned = True

    def _put_last(self, server: str) -> None:
        self._servers = (*(each for each in self._servers if each != server), server)

    def reach(self) -> str:
        """Name the server to talk to now, for who has a way of its own to do so. Raises as a request does."""
        server, connection = self._connect()
        connection.close()
        return server

    def _connect(self) -> tuple[str, http.client.HTTPSConnection]:
        try:
            server, sock = race(self._servers, self.tls)
        except NobodyAnswered as error:
            raise _nobody(error.failures, self.context.name) from None
        self._servers = (server, *(each for each in self._servers if each != server))
        parts = urlsplit(server)
        connection = http.client.HTTPSConnection(parts.hostname or "", parts.port or API_PORT, context=self.tls)
        connection.sock = sock
        return server, connection


@dataclass(frozen=True, slots=True)
class _Send:
    """A request as it is sent, through whichever server."""

    method: str
    path: str
    params: Mapping[str, str]
    body: bytes | None
    headers: Mapping[str, str]
    timeout: float

    def through(
        self, connection: http.client.HTTPSConnection, *, consistent: bool, wait: float
    ) -> http.client.HTTPResponse:
        """Send it, and wait for the beginning of the answer; the rest of it may take ``timeout``."""
        sock = connection.sock
        sock.settimeout(wait)
        query = urlencode({**self.params, **({"consistent": "true"} if consistent else {})})
        target = f"{self.path}?{query}" if query else self.path
        connection.request(self.method, target, body=self.body, headers=self.headers)
        answer = connection.getresponse()
        if connection.sock is not None:
            sock.settimeout(self.timeout)
        return answer


_HINT: Final = "is kat-agent running there? 'katcall context ls' shows other clusters"


def _nobody(failures: Mapping[str, Exception], context: str) -> KatError:
    """Say why no server of a context can be talked to."""
    found = {server: _broken(error, server, context) for server, error in failures.items()}
    if len(found) == 1:
        return next(iter(found.values()))
    refused = [error for error in found.values() if isinstance(error, Unauthenticated)]
    if refused:  # somebody is there, and waiting for the others may mend nothing: this has to be looked at
        others = len(found) - len(refused)
        rest = f"; {others} other {'server does' if others == 1 else 'servers do'} not answer" if others else ""
        return Unauthenticated(f"{refused[0].message}{rest}", hint=refused[0].hint)
    why: dict[str, list[str]] = {}
    for server, error in failures.items():
        why.setdefault(_reason(error), []).append(server)
    said = "; ".join(f"{text} ({', '.join(servers)})" for text, servers in why.items())
    return Unavailable(f"the API does not answer at any of its {len(found)} servers: {said}", hint=_HINT)


def _late(connection: http.client.HTTPSConnection, seconds: float) -> TimedOut:
    return TimedOut(f"{_where(connection)} did not answer within {seconds:g} s")


def _broken(error: Exception, server: str, context: str | None = None) -> KatError:
    """Say in one line why a connection failed, and what to do."""
    if isinstance(error, ssl.SSLCertVerificationError):
        which = f"context '{context}'" if context else "this context"
        return Unauthenticated(
            f"the server at {server} is not of the cluster of {which}: {error.verify_message}",
            hint="another cluster answers there (katcall context ls), or its CA was changed: get a new context from its"
            " administrator, or run 'kat-agent context' on a control-plane node",
        )
    if isinstance(error, ssl.SSLError) and error.reason and "ALERT" in error.reason:
        return Unauthenticated(
            f"the server at {server} refused our certificate ({error.reason.replace('_', ' ').lower()})",
            hint="it has expired, or is of another cluster or of a CA that this one has replaced; get a new context"
            " from its administrator, or run 'kat-agent context' on a control-plane node",
        )
    return Unavailable(f"the API at {server} does not answer: {_reason(error)}", hint=_HINT)


def _reason(error: Exception) -> str:
    if isinstance(error, ssl.SSLError):
        return f"no TLS, {error.reason or error}"
    if isinstance(error, ConnectionRefusedError):
        return "connection refused"
    if isinstance(error, TimeoutError):
        return f"nothing comes within {CONNECT_SECONDS:g} s"
    return (error.strerror if isinstance(error, OSError) else None) or str(error) or type(error).__name__


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
