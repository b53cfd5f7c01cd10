"""The connection to etcd: aetcd's client with other channels, and one way to make every request.

aetcd 1.0 opens insecure channels to one host and port. Here the target may be a Unix socket, or one of several
hosts over TLS; and the watcher of aetcd is not used (see ``watch.py``), only its messages and stubs.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import aetcd
import grpc
from aetcd import rpc
from grpc.aio import AioRpcError

from kat_platform.errors import KatError, StoreError
from kat_store_etcd.config import EtcdConfig
from kat_store_etcd.faults import certainly_not_done, passing, translate

PAUSES = (0.02, 0.5)
"""Shortest and longest pause between two attempts, in seconds."""

_OPTIONS = (
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
    ("grpc.initial_reconnect_backoff_ms", 50),
    ("grpc.min_reconnect_backoff_ms", 50),
    ("grpc.max_reconnect_backoff_ms", 250),
    ("grpc.use_local_subchannel_pool", 1),
)
_REMOTE_OPTIONS = (
    ("grpc.keepalive_time_ms", 10_000),  # etcd closes connections that ping more often than each 5 s
    ("grpc.keepalive_timeout_ms", 5_000),
)
_LONGEST_SOCKET_PATH = 100


class EtcdClient(aetcd.Client):  # type: ignore[misc]  # aetcd ships no types
    """An etcd client on a Unix socket, or on the first of several endpoints that answers."""

    def __init__(self, config: EtcdConfig, socket: Path | None = None) -> None:
        super().__init__()
        self._config = config
        self._socket = socket
        self._folder = -1
        self._channels: list[Any] = []
        self._endpoint = 0
        self.closed = False
        self.explain: Callable[[bool, KatError], KatError] = lambda write, error: error
        """Given a passing fault, gives a better one, if the reason is known (the disk is full, for one).
        Its first argument says that a write was asked for and certainly not carried out."""

    async def connect(self) -> None:
        """Make a channel for each endpoint; gRPC connects when the first request is made, and again when it must."""
        if self._channels:
            return
        self.closed = False
        if self._socket is not None:
            self._channels = [rpc.insecure_channel(self._target(self._socket), options=_OPTIONS)]
        else:
            self._channels = [self._remote(endpoint) for endpoint in self._config.endpoints]
        self._use(0)

    async def close(self) -> None:
        """Close the channels; requests under way fail."""
        self.closed = True
        channels, self._channels = self._channels, []
        for channel in channels:
            await channel.close()
        if self._folder >= 0:
            os.close(self._folder)
            self._folder = -1

    def _use(self, endpoint: int) -> None:
        self._endpoint = endpoint % len(self._channels)
        self.channel = self._channels[self._endpoint]
        self.kvstub = rpc.KVStub(self.channel)
        self.clusterstub = rpc.ClusterStub(self.channel)
        self.leasestub = rpc.LeaseStub(self.channel)
        self.maintenancestub = rpc.MaintenanceStub(self.channel)
        self.watchstub = rpc.WatchStub(self.channel)

    def turn(self, channel: Any) -> None:
        """Go on to the next endpoint, if there is one and nobody else has gone already."""
        if len(self._channels) > 1 and channel is self.channel:
            self._use(self._endpoint + 1)

    def _remote(self, endpoint: str) -> Any:
        secure = endpoint.startswith("https://") or bool(self._config.ca_file)
        target = endpoint.removeprefix("https://").removeprefix("http://")
        options = _OPTIONS + _REMOTE_OPTIONS
        if not secure:
            return rpc.insecure_channel(target, options=options)
        return rpc.secure_channel(target, self._credentials(), options=options)

    def _target(self, socket: Path) -> str:
        """Name the socket for gRPC; a path longer than the kernel takes goes through a descriptor of its folder."""
        path = str(socket)
        if len(path.encode()) > _LONGEST_SOCKET_PATH:
            if self._folder < 0:
                self._folder = os.open(socket.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
            path = f"/proc/self/fd/{self._folder}/{socket.name}"
        return f"unix:{path}"

    def _credentials(self) -> Any:
        def read(name: str) -> bytes | None:
            return Path(name).read_bytes() if name else None

        config = self._config
        return grpc.ssl_channel_credentials(read(config.ca_file), read(config.key_file), read(config.cert_file))

    @contextmanager
    def told_when_closed(self, what: str) -> Iterator[None]:
        """Turn the cancellation that closing a channel brings to its requests into an error for who waits for them."""
        try:
            yield
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if self.closed and task is not None and not task.cancelling():
                raise StoreError(f"{what}: the store was stopped meanwhile") from None
            raise

    async def read(self, what: str, stub: str, method: str, request: Any, timeout: float | None = None) -> Any:
        """Make a request that changes nothing, again and again while etcd is away for a moment."""
        return await self._request(what, stub, method, request, False, timeout)

    async def write(self, what: str, stub: str, method: str, request: Any, timeout: float | None = None) -> Any:
        """Make a request that changes something: again only if the last attempt certainly did nothing."""
        return await self._request(what, stub, method, request, True, timeout)

    async def _request(
        self, what: str, stub: str, method: str, request: Any, write: bool, timeout: float | None
    ) -> Any:
        limit = self._config.request_timeout_seconds if timeout is None else timeout
        give_up, pause = 0.0, PAUSES[0]
        while True:
            if self.closed or not self._channels:
                raise StoreError(f"{what}: the store is not running here")
            channel = self.channel
            try:
                with self.told_when_closed(what):
                    return await getattr(getattr(self, stub), method)(request, timeout=limit)
            except AioRpcError as error:
                again = passing(error) and (not write or certainly_not_done(error))
                now = time.monotonic()
                give_up = give_up or now + self._config.retry_seconds
                if not again or now + pause > give_up:
                    kat = translate(error, what)
                    raise (self.explain(write and again, kat) if passing(error) else kat) from error
                self.turn(channel)
            await asyncio.sleep(pause)
            pause = min(pause * 2, PAUSES[1])
