"""Probes: health checks of one running instance. The rule is pure (:class:`Health`), the checks are I/O."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Final

import structlog

from kat_platform.errors import KatError
from kat_platform.interfaces.runtime import Runtime
from kat_platform.model.load_balancer import HealthCheck, HttpCheck

log = structlog.get_logger(__name__)

FIRST_LOOK: Final = 0.01
"""Seconds after the start before the first look; further ones follow at doubling distances until the first success, so
that a quick starter is ready quickly. Only looks at the full period count as failures."""

READ_LIMIT: Final = 4096


@dataclass(frozen=True, slots=True)
class Health:
    """What the looks so far say: pure state, advanced by :meth:`after`."""

    ready: bool = False
    successes: int = 0
    failures: int = 0
    message: str = "not checked yet"

    def after(self, failure: str, check: HealthCheck, *, counts: bool = True) -> Health:
        """Give the state after one more look; ``failure`` is empty for a success. Early failures do not count."""
        if not failure:
            successes = min(self.successes + 1, check.success_threshold)
            ready = self.ready or successes >= check.success_threshold
            return Health(ready, successes, 0, "" if ready else f"{successes} of {check.success_threshold} successes")
        if not counts:
            return replace(self, successes=0, message=failure)
        failures = min(self.failures + 1, check.failure_threshold)
        return Health(self.ready and failures < check.failure_threshold, 0, failures, failure)

    def failed(self, check: HealthCheck) -> bool:
        """Tell whether the failures in a row have reached the threshold."""
        return self.failures >= check.failure_threshold


class Prober:
    """Looks at one instance again and again and tells when its health changes."""

    def __init__(
        self,
        check: HealthCheck,
        name: str,
        address: str,
        runtime: Runtime,
        on_health: Callable[[Health], None],
        *,
        ready: bool = False,
    ) -> None:
        self._check, self._name, self._address, self._runtime = check, name, address, runtime
        self._on_health, self._ready = on_health, ready

    async def run(self) -> None:
        """Look until cancelled. One that was ``ready`` before stays so until its failures reach the threshold."""
        check = self._check
        health = Health(self._ready, message="" if self._ready else "not checked yet")
        if not self._ready:
            await asyncio.sleep(check.initial_delay_seconds)
        pause = min(FIRST_LOOK, float(check.period_seconds))
        since_counted = 0.0
        clock = asyncio.get_running_loop().time
        while True:
            if not health.ready and health.failures == 0:
                await asyncio.sleep(pause)
                since_counted += pause
                pause = min(pause * 2, float(check.period_seconds))
            else:
                await asyncio.sleep(check.period_seconds)
                since_counted = float(check.period_seconds)
            began = clock()
            failure = await self.look()
            since_counted += clock() - began
            counts = since_counted >= check.period_seconds
            if counts:
                since_counted = 0.0
            before, health = health, health.after(failure, check, counts=counts)
            if health != before:
                self._on_health(health)

    async def look(self) -> str:
        """Look once; gives what is wrong in words, or nothing."""
        check, seconds = self._check, float(self._check.timeout_seconds)
        try:
            async with asyncio.timeout(seconds):
                if check.http is not None:
                    return await _http(check.http, self._address)
                if check.tcp is not None:
                    return await _tcp(self._address, check.tcp.port)
                return await self._exec(seconds)
        except TimeoutError:
            return f"no answer within {seconds:g} s"

    async def _exec(self, seconds: float) -> str:
        assert self._check.exec is not None
        command = self._check.exec.command
        try:
            result = await self._runtime.exec(self._name, command, timeout=seconds)
        except KatError as error:
            return f"{command[0]}: {error.message}"
        except OSError as error:
            return f"{command[0]}: {error}"
        if result.exit_code == 0:
            return ""
        output = (result.stderr or result.stdout).decode(errors="replace").strip().splitlines()
        return f"{command[0]} exited with {result.exit_code}" + (f": {output[-1][:200]}" if output else "")


async def _tcp(address: str, port: int) -> str:
    try:
        _, writer = await asyncio.open_connection(address, port)
    except OSError as error:
        return f"port {port}: {_reason(error)}"
    await _close(writer)
    return ""


async def _http(check: HttpCheck, address: str) -> str:
    where = f"http://{address}:{check.port}{check.path}"
    try:
        reader, writer = await asyncio.open_connection(address, check.port, limit=READ_LIMIT)
    except OSError as error:
        return f"{where}: {_reason(error)}"
    try:
        head = f"GET {check.path} HTTP/1.1\r\nHost: {address}:{check.port}\r\n"
        writer.write(f"{head}User-Agent: kat-probe\r\nConnection: close\r\n\r\n".encode())
        line = await reader.readline()
    except (OSError, ValueError) as error:
        return f"{where}: {error or 'connection closed'}"
    finally:
        await _close(writer)
    return _judge(line, check, where)


def _judge(line: bytes, check: HttpCheck, where: str) -> str:
    parts = line.split(None, 2)
    if len(parts) < 2 or not parts[0].startswith(b"HTTP/") or not parts[1].isdigit():
        return f"{where}: the answer is not HTTP"
    status = int(parts[1])
    good = status == check.expected_status if check.expected_status is not None else 200 <= status < 400
    return "" if good else f"{where}: status {status}"


async def _close(writer: asyncio.StreamWriter) -> None:
    writer.close()
    with suppress(OSError):  # the peer may have closed first: that is its right
        await writer.wait_closed()


def _reason(error: OSError) -> str:
    return (error.strerror or str(error) or type(error).__name__).lower()
