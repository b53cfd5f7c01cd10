"""Renewal: a new key and certificate for the node at two thirds of the old one's life, without a restart."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta
from typing import Final, Protocol

import structlog
from cryptography import x509

from kat_platform.errors import InvalidInput, KatError, Unavailable
from kat_platform.model.identity import NodeName
from kat_platform.pki import certificates

log = structlog.get_logger(__name__)

LOOK: Final = 3600.0
"""Seconds between two looks at the clock, at most: it may be set, and a machine may sleep."""
RETRY_FIRST: Final = 30.0
STALE_FIRST: Final = 0.5
"""Seconds before a certificate of the new CA is asked for again: the cluster waits for it."""
RETRY_MOST: Final = 3600.0


class Keeps(Protocol):
    """Where the node's certificate is; ``agent.identity.OwnTls``."""

    def certificate(self) -> x509.Certificate:
        """Read the certificate in use."""

    def replace(self, key: bytes, certificate: bytes) -> None:
        """Take a new key and certificate into use."""


async def _waited(what: Awaitable[object]) -> None:
    await what


class Renewal:
    """Keeps one node's certificate fresh. ``sign`` sends a request (PEM) to the API and gives the certificate (PEM)."""

    def __init__(
        self,
        name: NodeName,
        own: Keeps,
        sign: Callable[[str], Awaitable[str]],
        *,
        stale: Callable[[], bool] = lambda: False,
        now: Callable[[], datetime] = certificates.utc_now,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._name, self._own, self._sign, self._now, self._sleep = name, own, sign, now, sleep
        self._stale = stale
        self._wake = asyncio.Event()

    def look(self) -> None:
        """Look now whether the certificate is to be renewed: ``stale`` may give another answer than before."""
        self._wake.set()

    async def run(self) -> None:
        """Renew whenever it is time, until cancelled; what fails is tried again, more and more seldom."""
        pause, retry = RETRY_FIRST, STALE_FIRST
        while True:
            due = certificates.renew_at(self._own.certificate())
            left = (due - self._now()) / timedelta(seconds=1)
            if left > 0 and not self._stale():
                await self._pause(min(left, LOOK))
                continue
            try:
                await self.renew()
                if self._stale():
                    raise Unavailable("the API signed with the former CA: it has not heard of the new one yet")
                pause, retry = RETRY_FIRST, STALE_FIRST
            except (KatError, OSError) as error:  # a full disk too: it may have room again
                if self._stale():
                    log.info("certificate of the new CA not given yet", error=str(error), retry_in=retry)
                    await self._pause(retry)
                    retry = min(RETRY_FIRST, retry * 2)
                    continue
                ends = self._own.certificate().not_valid_after_utc
                log.warning("certificate not renewed", ends=ends.isoformat(), error=str(error), retry_in=pause)
                await self._pause(pause)
                pause = min(RETRY_MOST, pause * 2)

    async def _pause(self, seconds: float) -> None:
        """Sleep, at most until :meth:`look` is called."""
        self._wake.clear()
        tasks = (
            asyncio.create_task(_waited(self._sleep(seconds)), name="renewal pause"),
            asyncio.create_task(_waited(self._wake.wait()), name="renewal wake"),
        )
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()

    async def renew(self) -> None:
        """Renew now. The private key is new as well, and never leaves this host."""
        key = certificates.make_key()
        answer = await self._sign(certificates.make_csr(key, self._name).decode())
        fresh = certificates.load_certificate(answer.encode())
        if fresh.public_key() != key.public_key() or certificates.identity_of(fresh) != self._name:
            raise InvalidInput("the API signed another certificate than the one asked for")
        self._own.replace(certificates.key_pem(key), certificates.chain_pem(answer.encode()))
        log.info("certificate renewed", serial=f"{fresh.serial_number:x}", ends=fresh.not_valid_after_utc.isoformat())
