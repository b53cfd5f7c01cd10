"""Stream: a sender and a receiver over TCP, for ``bench.overlay``. Standard library only: each end runs by itself.

``serve ADDRESS PORT`` answers until its standard input ends. ``push ADDRESS PORT SECONDS`` prints the bytes a second
that arrived, ``ask ADDRESS PORT COUNT`` the seconds of each of so many exchanges, as JSON.
"""

from __future__ import annotations

import json
import socket
import sys
import threading
import time

CHUNK = 1 << 18
SMALL = 64
PUSH, ASK = b"p", b"a"


def serve(address: str, port: int) -> None:
    """Take connections until standard input ends."""
    listener = socket.create_server((address, port))
    threading.Thread(target=_accept, args=(listener,), daemon=True).start()
    print("ready", flush=True)
    sys.stdin.read()


def _accept(listener: socket.socket) -> None:
    while True:
        connection, _ = listener.accept()
        with connection:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            kind = connection.recv(1)
            if kind == PUSH:
                _take(connection)
            elif kind == ASK:
                while received := connection.recv(SMALL):
                    connection.sendall(received)


def _take(connection: socket.socket) -> None:
    """Receive all, and answer how many bytes a second came after the first half second: TCP gets up to speed in it."""
    room = memoryview(bytearray(CHUNK))
    began = time.perf_counter()
    counted, since = 0, 0.0
    while size := connection.recv_into(room):
        now = time.perf_counter()
        if since:
            counted += size
        elif now - began >= 0.5:
            since = now
    connection.sendall(json.dumps(counted / (now - since) if since else 0.0).encode())


def push(address: str, port: int, seconds: float) -> float:
    """Send for some seconds as fast as it goes; gives bytes per second at the receiver."""
    block = memoryview(bytes(CHUNK))
    with socket.create_connection((address, port), timeout=30) as connection:
        connection.sendall(PUSH)
        end = time.perf_counter() + seconds
        while time.perf_counter() < end:
            connection.sendall(block)
        connection.shutdown(socket.SHUT_WR)
        return float(json.loads(connection.recv(100)))


def ask(address: str, port: int, count: int) -> list[float]:
    """Send small requests one after the other; gives the seconds until each answer."""
    took = []
    with socket.create_connection((address, port), timeout=30) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.sendall(ASK)
        for _ in range(count):
            began = time.perf_counter()
            connection.sendall(bytes(SMALL))
            got = 0
            while got < SMALL:
                got += len(connection.recv(SMALL))
            took.append(time.perf_counter() - began)
    return took


def main() -> None:
    """Be one end."""
    kind, address, port, *amount = sys.argv[1:]
    if kind == "serve":
        serve(address, int(port))
    elif kind == "push":
        print(json.dumps(push(address, int(port), float(amount[0]))))
    else:
        print(json.dumps(ask(address, int(port), int(amount[0]))))


if __name__ == "__main__":
    main()
