"""Etcds: three bare members of etcd on loopback, with the same timers as KAT's. What no failover can be faster than."""

from __future__ import annotations

import base64
import http.client
import json
import shutil
import signal
import subprocess
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from kat_platform.testing.conformance.store import free_port
from tests.cluster.host import wait_for

TIMERS = ("heartbeat-interval", "election-timeout", "pre-vote")
TRY_SECONDS = 0.1
"""What was sent to a leader that is gone is never answered: a new try each time."""


def timers(command: list[str]) -> list[str]:
    """Give the flags for the timers from a command line of etcd."""
    return [word for word in command if word.lstrip("-").partition("=")[0] in TIMERS]


class BareEtcds:
    """Three members, in a folder of their own. Every file is removed at the end."""

    def __init__(self, flags: list[str]) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="ktb"))
        self._flags = flags
        self._clients = [free_port() for _ in range(3)]
        self._peers = [free_port() for _ in range(3)]
        self._members: list[subprocess.Popen[bytes]] = []
        self._numbers = 0

    def __enter__(self) -> BareEtcds:
        try:
            self._members = [self._start(index) for index in range(3)]
            self.well()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for member in self._members:
            member.kill()
            member.wait()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _start(self, index: int) -> subprocess.Popen[bytes]:
        client, peer = (f"http://127.0.0.1:{ports[index]}" for ports in (self._clients, self._peers))
        every = ",".join(f"m{number}=http://127.0.0.1:{port}" for number, port in enumerate(self._peers))
        words = ["etcd", "--name", f"m{index}", "--data-dir", str(self._folder / str(index))]
        words += ["--listen-client-urls", client, "--advertise-client-urls", client]
        words += ["--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer]
        words += ["--initial-cluster", every, "--initial-cluster-state", "new", "--log-level", "error", *self._flags]
        return subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def _ask(self, index: int, path: str, body: dict[str, str], seconds: float) -> dict[str, Any]:
        connection = http.client.HTTPConnection("127.0.0.1", self._clients[index], timeout=seconds)
        try:
            connection.request("POST", path, json.dumps(body))
            answer = connection.getresponse()
            text = answer.read()
        except http.client.HTTPException as error:
            raise OSError(str(error)) from error
        finally:
            connection.close()
        if answer.status != 200:
            raise OSError(f"{answer.status} {text[:200]!r}")
        return dict(json.loads(text))

    def _put(self, index: int, seconds: float) -> None:
        self._numbers += 1
        key, value = (base64.b64encode(word.encode()).decode() for word in ("bench", str(self._numbers)))
        self._ask(index, "/v3/kv/put", {"key": key, "value": value}, seconds)

    def _leader(self) -> int | None:
        for index in range(3):
            status = self._ask(index, "/v3/maintenance/status", {}, 2.0)
            if status["header"]["member_id"] == status.get("leader"):
                return index
        return None

    def well(self) -> None:
        """Wait until every member takes a write."""

        def taken() -> bool:
            for index in range(3):
                self._put(index, 2.0)
            return self._leader() is not None

        wait_for(taken, "every bare etcd takes writes", 30)

    def fail_over(self) -> float:
        """Kill the leader and give the seconds until one of the others acknowledges a write; then start it again."""
        leader = self._leader()
        assert leader is not None, "bare etcd has no leader"
        done = threading.Event()
        ends: list[float] = []

        def write(index: int) -> None:
            while not done.is_set():
                try:
                    self._put(index, TRY_SECONDS)
                except OSError:
                    time.sleep(0.005)
                    continue
                ends.append(time.monotonic())
                done.set()

        began = time.monotonic()
        self._members[leader].send_signal(signal.SIGKILL)
        threads = [threading.Thread(target=write, args=(index,)) for index in range(3) if index != leader]
        for thread in threads:
            thread.start()
        if not done.wait(30):
            done.set()
            raise AssertionError("bare etcd took no write within 30 s of its leader's death")
        for thread in threads:
            thread.join()
        self._members[leader].wait()
        self._members[leader] = self._start(leader)
        self.well()
        return min(ends) - began
