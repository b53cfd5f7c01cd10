"""Follow: watches that survive a restart of the server, several at once where a command needs them."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Iterator, Mapping
from typing import Any

from kat_platform.cli.client import Client
from kat_platform.errors import Compacted, KatError, Unavailable

RETRY_SECONDS = 0.5


def watch(
    client: Client, path: str, params: Mapping[str, Any] | None = None, *, patience: float = 30.0
) -> Iterator[dict[str, Any]]:
    """Give the lines of a watch, resumed where it broke off; ends only by an error.

    A server that is away is waited for ``patience`` seconds, but not on the very first try.
    """
    revision: int | None = None
    lost: float | None = None
    started = False
    while True:
        try:
            asked = {**(params or {}), "watch": True, "fromRevision": revision}
            for line in client.stream(path, asked):
                started, lost = True, None
                revision = line["revision"] or revision
                yield line
        except Compacted:
            revision = None
        except Unavailable:
            lost = lost if lost is not None else time.monotonic()
            if not started or time.monotonic() - lost > patience:
                raise
        time.sleep(RETRY_SECONDS)


def watch_many(client: Client, paths: Mapping[str, tuple[str, Mapping[str, Any]]]) -> queue.Queue[tuple[str, Any]]:
    """Watch several collections at once, each in a thread of its own that ends with the process.

    The queue gives ``(name, line)``, or ``(name, error)`` when that watch has ended.
    """
    found: queue.Queue[tuple[str, Any]] = queue.Queue(maxsize=1000)

    def read(name: str, path: str, params: Mapping[str, Any]) -> None:
        try:
            for line in watch(client, path, params):
                found.put((name, line))
        except KatError as error:
            found.put((name, error))

    client.tls  # noqa: B018 - made here, once, and not by two threads at the same time
    for name, (path, params) in paths.items():
        threading.Thread(target=read, args=(name, path, params), name=f"watch-{name}", daemon=True).start()
    return found
