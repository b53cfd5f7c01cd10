"""The supervised etcd: started, watched over, started again with growing pauses when it dies. Its data stay."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Sequence

import structlog

from kat_platform.errors import DriverError, HostNotReady, KatError, StoreError, StoreFull
from kat_platform.interfaces.driver import DriverStatus, Health
from kat_platform.interfaces.store import PeerIdentity
from kat_store_etcd.config import EtcdConfig
from kat_store_etcd.flags import arguments, environment, known_flags
from kat_store_etcd.folder import MemberFolder
from kat_store_etcd.host import find, run
from kat_store_etcd.process import EtcdProcess, end_left_over

log = structlog.get_logger(__name__)

BACKOFF = (0.1, 10.0)
"""Shortest and longest pause before etcd is started again, in seconds."""
STEADY_SECONDS = 10.0
"""How long etcd must have run for the pause to begin at its shortest again."""
_FULL = "no space left on device"
_ANEW = "it is started anew on purpose"


class Member:
    """etcd as a child of this process."""

    def __init__(self, config: EtcdConfig, folder: MemberFolder) -> None:
        self._config = config
        self._folder = folder
        self._process: EtcdProcess | None = None
        self._keeper: asyncio.Task[None] | None = None
        self._reason = ""
        self._argv: Sequence[str] = ()
        self.peer: PeerIdentity | None = None
        self.restarts = 0

    @property
    def pid(self) -> int | None:
        """The process id, while etcd runs."""
        return self._process.pid if self._process is not None and self._process.running else None

    async def start(self, *, alone: bool = False) -> None:
        """End what an earlier agent left, then start etcd. ``alone``: it forgets the other members."""
        if self._keeper is not None:
            return
        self._folder.prepare()
        argv = self._argv = await self._command(alone)
        await end_left_over(self._folder.data, argv[0])
        self._process = await self._spawn(argv)
        self._keeper = asyncio.create_task(self._keep(argv), name="etcd")

    async def restart(self) -> None:
        """End etcd in order and start it again with the same arguments; what it reads at its start it reads anew."""
        if self._keeper is None:
            raise StoreError("etcd has not been started, so it cannot be started anew")
        self._keeper.cancel()
        await asyncio.gather(self._keeper, return_exceptions=True)
        self._reason = _ANEW  # until it answers
        try:
            if self._process is not None:
                await self._process.stop()
            self._process = await self._spawn(self._argv)
        finally:  # whatever happened, it is watched over again: one that does not run is started
            self._keeper = asyncio.create_task(self._keep(self._argv), name="etcd")

    async def stop(self) -> None:
        """End etcd and stop watching over it."""
        keeper, self._keeper = self._keeper, None
        if keeper is not None:
            keeper.cancel()
            await asyncio.gather(keeper, return_exceptions=True)
        if self._process is not None:
            await self._process.stop()
            self._process = None

    def ensure_alive(self) -> None:
        """Raise ``DriverError`` with etcd's last words when it died since it was started: for the start only."""
        if self.restarts or self._process is None or not self._process.running:
            raise DriverError(
                f"etcd does not start: {self._reason or self._last_words()}",
                hint=self._remedy(),
                driver="etcd",
                operation="start",
                output=list(self._process.tail)[-10:] if self._process else [],
            )

    def status(self) -> DriverStatus:
        """Tell how the child is."""
        facts = {"pid": self.pid, "restarts": self.restarts}
        if self._keeper is not None and self._keeper.done() and self._reason != _ANEW:
            return DriverStatus(Health.FAILED, f"etcd is not watched over any more: {self._reason}", facts)
        if self.pid is None and self._reason != _ANEW:
            why = f": {self._reason}" if self._reason else ""
            return DriverStatus(Health.FAILED, f"etcd does not run{why}", facts)
        if self._reason:
            return DriverStatus(
                Health.DEGRADED, f"etcd was started again and does not answer yet: {self._reason}", facts
            )
        return DriverStatus(Health.OK, "", facts)

    def explain(self, write: bool, error: KatError) -> KatError:
        """Say why etcd does not answer, where that is known; ``write``: a write that certainly did not happen."""
        if self.pid is not None and not self._reason:
            return error
        if _FULL in self._reason:
            text = f"{error.message}: etcd stopped because the disk with {self._folder.root} is full"
            return (StoreFull if write else StoreError)(text, hint="make room; etcd then starts again by itself")
        return StoreError(f"{error.message}: etcd {self._reason or 'does not run'}") if self.pid is None else error

    async def _command(self, alone: bool) -> Sequence[str]:
        binary = find(self._config.binary)
        if binary is None:
            raise HostNotReady(
                f"etcd's program {self._config.binary!r} is not installed", hint="install the package etcd-server"
            )
        known = known_flags(await run(binary, "--help"))
        identity = self._folder.identity()
        return [binary, *arguments(self._config, identity, str(self._folder.data), known, self.peer, alone=alone)]

    async def _spawn(self, argv: Sequence[str]) -> EtcdProcess:
        # etcd does not remove the socket of one that was killed, and would not start over it
        for socket in (self._folder.socket, self._folder.peer_socket):
            socket.unlink(missing_ok=True)
        process = await EtcdProcess.spawn(argv, self._folder.root, environment(self._config))
        log.info("etcd-started", pid=process.pid)
        return process

    async def _keep(self, argv: Sequence[str]) -> None:
        pause = BACKOFF[0]
        began = time.monotonic()
        while True:
            try:
                assert self._process is not None
                code = await self._process.wait()
                self._reason = f"ended with {_describe(code)}: {self._last_words()}"
            except OSError as error:
                self._reason = f"could not be started: {error}"
            self.restarts += 1
            if time.monotonic() - began > STEADY_SECONDS:
                pause = BACKOFF[0]
            log.warning("etcd-ended", reason=self._reason, restart_in=pause)
            await asyncio.sleep(pause)
            pause = min(pause * 2, BACKOFF[1])
            began = time.monotonic()
            try:
                self._process = await self._spawn(argv)
            except OSError as error:
                self._reason = f"could not be started: {error}"
                log.error("etcd-not-started", reason=self._reason)

    def answered(self) -> None:
        """Note that etcd answers: what was wrong with it before is over."""
        if self.pid is not None:
            self._reason = ""

    def _last_words(self) -> str:
        return last_words(list(self._process.tail)) if self._process is not None else ""

    def _remedy(self) -> str:
        words = f"{self._reason} {self._last_words()}"
        if _FULL in words:
            return f"make room on the disk that holds {self._folder.root}"
        if "address already in use" in words:
            return "another program listens on the peer port: choose another etcdPeerPort"
        if "cannot assign requested address" in words:
            return "the peer address is not on this host: bring its interface up first"
        return "if the data are damaged, restore from a backup; the last lines of etcd are in the details"


def last_words(lines: list[str]) -> str:
    """Find the line of etcd's output that says best why it ended: the last fatal one, else the last error."""
    best, rank = "", -1
    order = {"fatal": 3, "panic": 3, "error": 2, "warn": 1}
    for line in lines:
        text, level = _parse(line)
        if order.get(level, 0) >= rank and text:
            best, rank = text, order.get(level, 0)
    return best or "it said nothing"


def _parse(line: str) -> tuple[str, str]:
    """Split a line of zap's JSON into text and level; panics and Go's own output are plain text."""
    try:
        record = json.loads(line)
        text = str(record["msg"])
        return (f"{text}: {record['error']}" if "error" in record else text), str(record.get("level", ""))
    except (ValueError, KeyError, TypeError):
        text = line.strip()
        return text, "panic" if text.startswith(("panic:", "fatal error:")) or _FULL in text else ""


def _describe(code: int) -> str:
    return f"signal {-code}" if code < 0 else f"code {code}"
