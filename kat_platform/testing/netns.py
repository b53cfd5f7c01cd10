"""Network namespaces that end with the test: stand-ins for containers, and for the host a network driver runs on.

A namespace is held by an open file and nothing else, so even a killed test leaves none behind. Needs root.
"""

from __future__ import annotations

import asyncio
import ctypes
import fcntl
import inspect
import os
import socket
import struct
import threading
from collections.abc import Callable, Coroutine
from typing import Any, Self, TypeVar

T = TypeVar("T")
_CLONE_NEWNET = 0x40000000
_SIOCGIFFLAGS, _SIOCSIFFLAGS, _UP = 0x8913, 0x8914, 0x1


def _libc(call: str, *arguments: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if getattr(libc, call)(*arguments) != 0:
        code = ctypes.get_errno()
        raise OSError(code, f"{call}: {os.strerror(code)}")


class Namespace:
    """A fresh network namespace with a working loopback."""

    def __init__(self) -> None:
        self.descriptor = -1
        _in_thread(self._unshare)

    def _unshare(self) -> None:
        _libc("unshare", _CLONE_NEWNET)
        self.descriptor = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        with socket.socket() as control:
            request = struct.pack("16sH14x", b"lo", 0)
            flags = struct.unpack("16sH14x", fcntl.ioctl(control, _SIOCGIFFLAGS, request))[1]
            fcntl.ioctl(control, _SIOCSIFFLAGS, struct.pack("16sH14x", b"lo", flags | _UP))

    @property
    def path(self) -> str:
        """Where any process of root can open the namespace."""
        return f"/proc/{os.getpid()}/fd/{self.descriptor}"

    def enter(self) -> None:
        """Move the calling thread in, for good."""
        _libc("setns", self.descriptor, _CLONE_NEWNET)

    def call(self, work: Callable[[], T]) -> T:
        """Run blocking work inside and give its result."""

        def inside() -> T:
            self.enter()
            return work()

        return _in_thread(inside)

    def socket(self, kind: int = socket.SOCK_STREAM) -> socket.socket:
        """Open a non-blocking IPv4 socket that belongs to the namespace; any thread may use it."""
        made = self.call(lambda: socket.socket(socket.AF_INET, kind))
        made.setblocking(False)
        return made

    def close(self) -> None:
        """Let go: once nothing else holds it, the namespace and its interfaces are gone."""
        if self.descriptor >= 0:
            os.close(self.descriptor)
            self.descriptor = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _in_thread(work: Callable[[], T]) -> T:
    results: list[T] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            results.append(work())
        except BaseException as error:  # handed to the caller, whatever it is
            errors.append(error)

    thread = threading.Thread(target=run, name="kt-netns")
    thread.start()
    thread.join()
    if errors:
        raise errors[0]
    return results[0]


class NamespaceLoop:
    """An event loop whose thread, and every thread and child it starts, lives in a namespace."""

    def __init__(self, namespace: Namespace) -> None:
        self.loop = asyncio.new_event_loop()
        ready = threading.Event()

        def serve() -> None:
            namespace.enter()
            asyncio.set_event_loop(self.loop)
            self.loop.call_soon(ready.set)
            self.loop.run_forever()

        self._thread = threading.Thread(target=serve, name="kt-node", daemon=True)
        self._thread.start()
        ready.wait(5)

    async def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine on the inner loop and wait for it on the caller's."""
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(work, self.loop))

    async def close(self) -> None:
        """End loop and thread, cancelling what still runs."""

        async def clear() -> None:
            others = asyncio.all_tasks() - {asyncio.current_task()}
            for task in others:
                task.cancel()
            await asyncio.gather(*others, return_exceptions=True)
            await self.loop.shutdown_default_executor()

        await self.run(clear())
        self.loop.call_soon_threadsafe(self.loop.stop)
        await asyncio.to_thread(self._thread.join)
        self.loop.close()


class Moved:
    """A driver whose coroutines run on a :class:`NamespaceLoop`; everything else is the driver's own."""

    def __init__(self, driver: Any, place: NamespaceLoop) -> None:
        self._driver = driver
        self._place = place

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._driver, name)
        if not inspect.iscoroutinefunction(found):
            return found

        async def there(*arguments: Any, **named: Any) -> Any:
            return await self._place.run(found(*arguments, **named))

        return there
