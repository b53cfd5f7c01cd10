"""Kernel: what Linux tells of its own accord about this machine's addresses and routes."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from types import TracebackType
from typing import Final, Self

RTMGRP_IPV4_IFADDR: Final = 0x10
RTMGRP_IPV4_ROUTE: Final = 0x40
"""Groups of news, see rtnetlink(7) and linux/rtnetlink.h."""
_MOST_AT_ONCE: Final = 1000
_LOOK_SECONDS: Final = 30.0


class AddressNews:
    """Tells whether an address or a route may have changed since it was last asked, for the price of a system call.

    It says so every 30 s in any case, and always where the kernel gives no such news.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._said_at = clock()
        self._socket: socket.socket | None = None

    def __enter__(self) -> Self:
        try:
            self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE)
            self._socket.setblocking(False)
            self._socket.bind((0, RTMGRP_IPV4_IFADDR | RTMGRP_IPV4_ROUTE))
        except OSError:
            self.__exit__(None, None, None)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def any(self) -> bool:
        """Tell whether it is time to look what the addresses are."""
        if self._heard() or self._clock() - self._said_at >= _LOOK_SECONDS:
            self._said_at = self._clock()
            return True
        return False

    def _heard(self) -> bool:
        if self._socket is None:
            return True
        heard = False
        for _ in range(_MOST_AT_ONCE):
            try:
                self._socket.recv(65536)
            except BlockingIOError:
                break
            except OSError:  # ENOBUFS: there was more than the kernel kept for us
                pass
            heard = True
        return heard
