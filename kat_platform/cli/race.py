"""Race: connects to whichever of several servers answers first, so that a dead or frozen one costs next to nothing.

A selector over non-blocking sockets rather than threads: nothing is left behind that could delay the end of the
process, and Ctrl-C works at once.
"""

from __future__ import annotations

import errno
import os
import selectors
import socket
import ssl
import time
from collections.abc import Iterator, Sequence
from typing import Any, Final, NamedTuple
from urllib.parse import urlsplit

API_PORT: Final = 9115
SERVER_NAME: Final = "kat-api"
"""The name that every control-plane node's certificate has, whatever its address."""
CONNECT_SECONDS: Final = 5.0
"""How long one server may take for TCP and TLS together."""
HEAD_START_SECONDS: Final = 0.25
"""How long a server is tried alone before the next one is tried beside it. A good one on the other side of the world
needs about as long, and loses nothing by the company."""


class Winner(NamedTuple):
    """The server that answered first, and a blocking socket on which the TLS handshake is done."""

    server: str
    sock: ssl.SSLSocket


class NobodyAnswered(Exception):
    """Every server failed; ``failures`` says how, in the order of the servers. A ``TimeoutError`` is silence."""

    def __init__(self, failures: dict[str, Exception]) -> None:
        super().__init__(failures)
        self.failures = failures


def race(servers: Sequence[str], tls: ssl.SSLContext) -> Winner:
    """Try servers side by side, each a little later than the one before it or as soon as one has failed.

    The first TLS handshake that is done wins; the others' connections are closed. Raises :class:`NobodyAnswered`.
    """
    failures: dict[str, Exception] = {}
    addresses = _addresses(servers, failures)
    tries: dict[int, _Try] = {}
    more, next_at = True, 0.0
    with selectors.DefaultSelector() as selector:

        def over(one: _Try, error: Exception) -> None:
            # Of a name with several addresses, one that showed a wrong certificate says more than one that is silent.
            if not isinstance(failures.get(one.server), ssl.SSLError):
                failures[one.server] = error
            selector.unregister(one.number)
            del tries[one.number]
            one.sock.close()

        try:
            while more or tries:
                now = time.monotonic()
                if more and now >= next_at:
                    found = next(addresses, None)
                    if found is None:
                        more = False
                        continue
                    now = time.monotonic()  # looking a name up may have taken a while
                    try:
                        one = _Try(*found, tls, now + CONNECT_SECONDS)
                    except OSError as error:  # a kind of address that this machine does not have
                        failures.setdefault(found[0], error)
                        continue
                    tries[one.number] = one
                    selector.register(one.number, selectors.EVENT_WRITE, one)
                    next_at = now + HEAD_START_SECONDS
                until = min([one.deadline for one in tries.values()] + ([next_at] if more else []))
                for key, _ in selector.select(max(0.0, until - now)):
                    one = key.data
                    try:
                        wanted = one.advance()
                    except OSError as error:  # what TLS finds wrong is such an error, too
                        over(one, error)
                        next_at = 0.0
                        continue
                    if not wanted:
                        del tries[one.number]
                        return Winner(one.server, one.won())
                    selector.modify(one.number, wanted, one)
                now = time.monotonic()
                for one in [one for one in tries.values() if one.deadline <= now]:
                    over(one, TimeoutError())
        finally:
            for one in tries.values():
                one.sock.close()
    raise NobodyAnswered({server: failures[server] for server in servers})


class _Try:
    """One connection on its way, first by TCP and then by TLS; never waits."""

    def __init__(self, server: str, family: int, address: Any, tls: ssl.SSLContext, deadline: float) -> None:
        self.server, self.deadline = server, deadline
        self._tls = tls
        self.sock = socket.socket(family, socket.SOCK_STREAM)
        self.number = self.sock.fileno()
        self.sock.setblocking(False)
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        # EINPROGRESS; or an error at once, which the socket does not keep.
        self._error = self.sock.connect_ex(address)

    def advance(self) -> int:
        """Go on as far as possible; gives what to wait for, 0 when the handshake is done. Raises ``OSError``."""
        if not isinstance(self.sock, ssl.SSLSocket):
            kept = self._error in (0, errno.EINPROGRESS)
            error = self.sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) if kept else self._error
            if error:
                raise OSError(error, os.strerror(error))
            self.sock = self._tls.wrap_socket(self.sock, server_hostname=SERVER_NAME, do_handshake_on_connect=False)
        try:
            self.sock.do_handshake()
        except ssl.SSLWantReadError:
            return selectors.EVENT_READ
        except ssl.SSLWantWriteError:
            return selectors.EVENT_WRITE
        return 0

    def won(self) -> ssl.SSLSocket:
        """Give the socket, which waits from now on."""
        assert isinstance(self.sock, ssl.SSLSocket)
        self.sock.settimeout(CONNECT_SECONDS)
        return self.sock


def _addresses(servers: Sequence[str], failures: dict[str, Exception]) -> Iterator[tuple[str, int, Any]]:
    """Give every address of every server with its family; a name is looked up only when it is its turn."""
    for server in servers:
        parts = urlsplit(server)
        try:
            found = socket.getaddrinfo(parts.hostname, parts.port or API_PORT, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError) as error:  # there is no such name, or can be none
            failures[server] = error
            continue
        for family, _, _, _, address in found:
            yield server, family, address
