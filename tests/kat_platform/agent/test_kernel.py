"""What the kernel tells of addresses, from a network namespace of the test's own."""

from __future__ import annotations

import errno
import socket
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest

from kat_platform.agent.kernel import AddressNews

_TRY = """
import subprocess
from kat_platform.agent.kernel import AddressNews

def ip(*words):
    subprocess.run(("ip", *words), check=True)

ip("link", "set", "lo", "up")
with AddressNews() as news:
    told = [news.any()]
    for words in (
        ("address", "add", "192.0.2.7/24", "dev", "lo"),
        ("route", "add", "198.51.100.0/24", "dev", "lo"),
        ("route", "del", "198.51.100.0/24"),
        ("address", "del", "192.0.2.7/24", "dev", "lo"),
    ):
        ip(*words)
        told += [news.any(), news.any()]
print(*told)
"""


@pytest.mark.real
def test_each_change_of_an_address_or_a_route_is_told_once() -> None:
    command = ("unshare", "--net", sys.executable, "-P", "-c", _TRY)
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)
    assert (done.stdout.split(), done.stderr) == (["False", *["True", "False"] * 4], "")


class _Kernel:
    """A netlink socket that says what it is told to."""

    def __init__(self, *says: bytes | OSError) -> None:
        self._says = list(says)
        self.closed = False

    def setblocking(self, flag: bool) -> None:
        assert not flag

    def bind(self, address: tuple[int, int]) -> None:
        pass

    def recv(self, size: int) -> bytes:
        said = self._says.pop(0) if self._says else BlockingIOError()
        if isinstance(said, OSError):
            raise said
        return said

    def close(self) -> None:
        self.closed = True


@pytest.fixture(name="kernel")
def make_kernel(monkeypatch: pytest.MonkeyPatch) -> Callable[..., _Kernel]:
    def make(*says: bytes | OSError) -> _Kernel:
        made = _Kernel(*says)
        monkeypatch.setattr(socket, "socket", lambda *_: made)
        return made

    return make


def test_news_that_the_kernel_could_not_keep_are_news(kernel: Callable[..., _Kernel]) -> None:
    made = kernel(OSError(errno.ENOBUFS, "No buffer space available"), b"more")
    with AddressNews() as news:
        assert [news.any(), news.any()] == [True, False]
    assert made.closed


def test_without_such_news_anything_may_have_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    def none(*_: Any) -> None:
        raise OSError(errno.EAFNOSUPPORT, "Address family not supported by protocol")

    monkeypatch.setattr(socket, "socket", none)
    with AddressNews() as news:
        assert [news.any(), news.any()] == [True, True]


def test_after_a_while_it_is_time_to_look_in_any_case(kernel: Callable[..., _Kernel]) -> None:
    kernel()
    now = 100.0
    with AddressNews(clock=lambda: now) as news:
        said = []
        for now in (129.0, 131.0, 132.0, 160.0, 162.0):  # noqa: B007
            said.append(news.any())
    assert said == [False, True, False, False, True]
