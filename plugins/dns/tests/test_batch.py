"""Batches of datagrams: each answer goes to its own sender, and one that cannot be sent stops no other."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import ExitStack

import pytest
from kat_dns.batch import SLOT, Datagrams


def _socket(stack: ExitStack) -> socket.socket:
    made = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
    made.bind(("127.0.0.1", 0))
    made.settimeout(2)
    return made


def _nothing(_: bytes) -> None:
    return None


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as opened:
        yield opened


def test_each_gets_the_answer_to_its_own_question(stack: ExitStack) -> None:
    server = _socket(stack)
    server.setblocking(False)
    box = Datagrams(server, 8)
    clients = [_socket(stack) for _ in range(20)]
    for number, client in enumerate(clients):
        client.sendto(b"%02d" % number + (b"known" if number % 2 else b"other"), server.getsockname())
    senders = {}

    def otherwise(packet: bytes, index: int) -> bytes | None:
        senders[packet[:2]] = box.sender(index)
        return None if packet[:2] == b"04" else packet + b"?"

    known = {b"known": b"!"}.get
    assert [box.serve(known, otherwise) for _ in range(4)] == [(8, 0), (8, 0), (4, 0), (0, 0)]
    for number, client in enumerate(clients):
        if number == 4:
            continue
        assert client.recv(100) == (b"%02d!" % number if number % 2 else b"%02dother?" % number)
    assert senders[b"04"] == clients[4].getsockname()


def test_an_answer_that_cannot_be_sent_is_counted_and_the_others_arrive(stack: ExitStack) -> None:
    server = _socket(stack)
    server.setblocking(False)
    box = Datagrams(server, 8)
    clients = [_socket(stack) for _ in range(4)]
    for number, client in enumerate(clients):
        client.sendto(b"%02d" % number, server.getsockname())

    def otherwise(packet: bytes, index: int) -> bytes | None:
        if index == 1:  # port 0: the kernel refuses to send there
            memoryview(box._names).cast("B")[index * 16 + 2 : index * 16 + 4] = b"\0\0"
        return packet

    assert box.serve(_nothing, otherwise) == (4, 1)
    for number, client in enumerate(clients):
        if number != 1:
            assert client.recv(100) == b"%02d" % number


def test_an_oversized_datagram_is_cut_not_spilled(stack: ExitStack) -> None:
    server, client = _socket(stack), _socket(stack)
    server.setblocking(False)
    box = Datagrams(server, 2)
    client.sendto(b"a" * 4000, server.getsockname())
    client.sendto(b"b" * 10, server.getsockname())
    seen: list[bytes] = []
    assert box.serve(_nothing, lambda packet, _: seen.append(packet)) == (2, 0)
    assert seen == [b"a" * SLOT, b"b" * 10]
