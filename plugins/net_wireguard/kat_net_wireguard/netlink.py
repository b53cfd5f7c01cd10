"""The little of netlink this driver speaks: attributes, and a socket that sends a request and reads the answer.

A library for all of netlink costs 24 MB of memory in an agent that should rest in a few dozen; this is what a
dozen message types need. Layout: ``include/uapi/linux/netlink.h``.
"""

from __future__ import annotations

import ctypes
import os
import socket
import struct
import threading
from collections.abc import Iterator
from typing import Self

ROUTE = 0
NETFILTER = 12

REQUEST, ACK, REPLACE, EXCL, CREATE, DUMP = 0x1, 0x4, 0x100, 0x200, 0x400, 0x300
_ERROR, _DONE, _MULTI = 2, 3, 0x2
_HEADER = struct.Struct("=IHHII")
_ATTRIBUTE = struct.Struct("=HH")
_NESTED = 0x8000
_CLONE_NEWNET = 0x40000000


class NetlinkError(OSError):
    """The kernel refused a request; ``errno`` and, where the kernel gives one, its own words."""


def attribute(kind: int, data: bytes) -> bytes:
    """Encode one attribute, padded to four bytes."""
    length = 4 + len(data)
    return _ATTRIBUTE.pack(length, kind) + data + b"\0" * (-length % 4)


def nested(kind: int, *parts: bytes) -> bytes:
    """Encode an attribute that holds attributes."""
    return attribute(kind | _NESTED, b"".join(parts))


def text(kind: int, value: str) -> bytes:
    """Encode a zero-terminated string attribute."""
    return attribute(kind, value.encode() + b"\0")


def number(kind: int, value: int) -> bytes:
    """Encode a 32-bit attribute in host order."""
    return attribute(kind, struct.pack("=I", value))


def attributes(data: bytes, offset: int = 0) -> dict[int, bytes]:
    """Decode the attributes in ``data`` from ``offset``; of several of a kind the last one counts."""
    found: dict[int, bytes] = {}
    while offset + 4 <= len(data):
        length, kind = _ATTRIBUTE.unpack_from(data, offset)
        if length < 4:
            break
        found[kind & 0x3FFF] = data[offset + 4 : offset + length]
        offset += (length + 3) & ~3
    return found


class Netlink:
    """A netlink socket in the network namespace of the thread that makes it. Blocking; not for several threads."""

    def __init__(self, protocol: int, timeout: float = 5.0) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, protocol)
        self._socket.settimeout(timeout)
        self._socket.setsockopt(270, 11, 1)  # SOL_NETLINK, NETLINK_EXT_ACK: errors come with the kernel's words
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        self._socket.bind((0, 0))
        self._sequence = 0

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def change(self, kind: int, body: bytes, flags: int = 0) -> None:
        """Send a request that changes something and wait until it is done; raises :class:`NetlinkError`."""
        for _ in self._exchange(kind, body, flags | ACK):
            pass

    def ask(self, kind: int, body: bytes, flags: int = 0) -> Iterator[bytes]:
        """Send a question and give the payload of every message of the answer."""
        yield from self._exchange(kind, body, flags if flags & DUMP else flags | ACK)

    def _exchange(self, kind: int, body: bytes, flags: int) -> Iterator[bytes]:
        self._sequence += 1
        header = _HEADER.pack(_HEADER.size + len(body), kind, flags | REQUEST, self._sequence, 0)
        self._socket.send(header + body)
        while True:
            data = self._socket.recv(1 << 17)
            offset = 0
            while offset + _HEADER.size <= len(data):
                length, answer, answer_flags, sequence, _ = _HEADER.unpack_from(data, offset)
                payload = data[offset + _HEADER.size : offset + length]
                offset += (length + 3) & ~3
                if sequence != self._sequence:
                    continue  # the rest of an answer whose reader gave up
                if answer in (_ERROR, _DONE):
                    self._verdict(answer, answer_flags, payload)
                    return
                yield payload

    @staticmethod
    def _verdict(answer: int, flags: int, payload: bytes) -> None:
        code = -struct.unpack_from("=i", payload)[0] if len(payload) >= 4 else 0
        if not code:
            return
        words = ""
        if answer == _ERROR and flags & 0x200:  # NLM_F_ACK_TLVS: extended acknowledgement after the echoed request
            echoed = 16 if flags & 0x100 else struct.unpack_from("=I", payload, 4)[0]
            words = attributes(payload, 4 + ((echoed + 3) & ~3)).get(1, b"").rstrip(b"\0").decode(errors="replace")
        raise NetlinkError(code, words or os.strerror(code))


def open_in(namespace: int, protocol: int) -> Netlink:
    """Open a netlink socket inside the network namespace that the file descriptor ``namespace`` stands for.

    A thread is made for it, enters, opens and ends: no thread is ever left in a foreign namespace, and the socket
    stays bound to where it was opened. (``os.setns`` exists only from Python 3.12.)
    """
    made: list[Netlink | OSError] = []

    def enter() -> None:
        try:
            libc = ctypes.CDLL(None, use_errno=True)
            if libc.setns(namespace, _CLONE_NEWNET) != 0:
                code = ctypes.get_errno()
                raise OSError(code, f"cannot enter the network namespace: {os.strerror(code)}")
            made.append(Netlink(protocol))
        except OSError as error:
            made.append(error)

    thread = threading.Thread(target=enter, name="enter-netns")
    thread.start()
    thread.join()
    if isinstance(made[0], OSError):
        raise made[0]
    return made[0]
