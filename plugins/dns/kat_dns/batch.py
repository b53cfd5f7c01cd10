"""Many datagrams by one system call: ``recvmmsg`` and ``sendmmsg`` (recvmmsg(2), sendmmsg(2)), which Python has not.

Addresses stay in the kernel's form: an answer goes back to the very bytes its question came with, and these are spelled
out only for the few that are answered later. Together this saves about a fifth of an answer's CPU time (bench/dns.py).
"""

from __future__ import annotations

import ctypes
import socket
import struct
from collections.abc import Callable
from typing import Final

SLOT: Final = 1536
"""Bytes kept for one datagram: a question with any sensible EDNS option, an answer of at most 1232."""

_SOCKADDR: Final = struct.Struct("!2xH4s")
_SOCKADDR_SIZE: Final = 16


class _Vector(ctypes.Structure):
    _fields_ = (("base", ctypes.c_void_p), ("size", ctypes.c_size_t))


class _Header(ctypes.Structure):
    _fields_ = (
        ("name", ctypes.c_void_p),
        ("name_size", ctypes.c_uint),
        ("vectors", ctypes.c_void_p),
        ("vector_count", ctypes.c_size_t),
        ("control", ctypes.c_void_p),
        ("control_size", ctypes.c_size_t),
        ("flags", ctypes.c_int),
    )


class _Message(ctypes.Structure):
    _fields_ = (("header", _Header), ("size", ctypes.c_uint))


_LIBC: Final = ctypes.CDLL(None, use_errno=True)
_STRIDE: Final = ctypes.sizeof(_Message) // 4
_SIZE_AT: Final = _Message.size.offset // 4
_WORDS: Final = ctypes.sizeof(_Message) // ctypes.sizeof(ctypes.c_size_t)
_FLAGS: Final = socket.MSG_DONTWAIT


class Datagrams:
    """Buffers for up to ``count`` datagrams in and as many out, on one non-blocking IPv4 socket."""

    def __init__(self, sock: socket.socket, count: int) -> None:
        self._descriptor = sock.fileno()
        self._count = count
        self._incoming = ctypes.create_string_buffer(SLOT * count)
        self._outgoing = ctypes.create_string_buffer(SLOT * count)
        self._names = ctypes.create_string_buffer(_SOCKADDR_SIZE * count)
        self._in_vectors, self._in_messages = self._messages(self._incoming)
        self._out_vectors, self._out_messages = self._messages(self._outgoing)
        self._names_at = ctypes.addressof(self._names)
        self._incoming_view = memoryview(self._incoming).cast("B")
        self._outgoing_view = memoryview(self._outgoing).cast("B")
        self._sizes = memoryview(self._in_messages).cast("B").cast("I")
        self._lengths = memoryview(self._out_vectors).cast("B").cast("L")
        self._targets = memoryview(self._out_messages).cast("B").cast("L")

    def _messages(self, buffer: ctypes.Array[ctypes.c_char]) -> tuple[ctypes.Array[_Vector], ctypes.Array[_Message]]:
        vectors, messages = (_Vector * self._count)(), (_Message * self._count)()
        names, start = ctypes.addressof(self._names), ctypes.addressof(buffer)
        for index in range(self._count):
            vectors[index] = _Vector(start + index * SLOT, SLOT)
            header = messages[index].header
            header.name, header.name_size = names + index * _SOCKADDR_SIZE, _SOCKADDR_SIZE
            header.vectors, header.vector_count = ctypes.addressof(vectors[index]), 1
        return vectors, messages

    def sender(self, index: int) -> tuple[str, int]:
        """Spell out where the datagram with this index of the latest batch came from."""
        port, address = _SOCKADDR.unpack_from(self._names, index * _SOCKADDR_SIZE)
        return socket.inet_ntoa(address), port

    def serve(
        self, known: Callable[[bytes], object], otherwise: Callable[[bytes, int], bytes | None]
    ) -> tuple[int, int]:
        """Answer what has arrived, from ``known`` by what follows the id, else from ``otherwise``.

        ``known`` gives bytes to put behind the id, or anything else to have ``otherwise`` asked, with the whole packet
        and its index. Gives the numbers of datagrams read and of answers lost. This loop is the hot path.
        """
        incoming, outgoing, sizes = self._incoming_view, self._outgoing_view, self._sizes
        lengths, targets, names = self._lengths, self._targets, self._names_at
        count = max(int(_LIBC.recvmmsg(self._descriptor, self._in_messages, self._count, _FLAGS, None)), 0)
        out = 0
        for index in range(count):
            start = index * SLOT
            packet = bytes(incoming[start : start + sizes[index * _STRIDE + _SIZE_AT]])
            found = known(packet[2:])
            answer = packet[:2] + found if found.__class__ is bytes else otherwise(packet, index)
            if answer is not None:
                start, size = out * SLOT, len(answer)
                outgoing[start : start + size] = answer
                lengths[out * 2 + 1] = size
                targets[out * _WORDS] = names + index * _SOCKADDR_SIZE
                out += 1
        return count, self._send(out)

    def _send(self, count: int) -> int:
        """Send the first ``count`` answers; gives how many were lost to a full buffer or a filter."""
        sent = lost = 0
        while sent < count:
            rest = ctypes.byref(self._out_messages, sent * ctypes.sizeof(_Message))
            done = int(_LIBC.sendmmsg(self._descriptor, rest, count - sent, _FLAGS))
            # It stops at the first that cannot be sent: leave that one out, and its client will ask again.
            lost += done < 1
            sent += max(done, 1)
        return lost
