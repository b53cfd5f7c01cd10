"""Renewal: a new key and certificate for the node at two thirds of the old one's life, without a restart."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta
from typing import Final, Protocol

import structlog
from cryptography import x509

from kat_platform.errors import InvalidInput, KatError
from kat_platform.model.identity import NodeName
from kat_platform.pki import certificates

log = structlog.get_logger(__name__)

LOOK: Final = 3600.0
"""Seconds between two looks at the clock, at most: it may be set, and a machine may sleep."""
RETRY_FIRST: Final = 30.0
RETRY_MOST: Final = 3600.0


class Keeps(Protocol):
    """Where the node's certificate is; ``agent.identity.OwnTls``."""

    def certificate(self) -> x509.Certificate:
        """Read the certificate in use."""

    def replace(self, key: bytes, certificate: bytes) -> None:
        """Take a new key and certificate into use."""


class Renewal:
    """Keeps one node's certificate fresh. ``sign`` sends a request (PEM) to the API and gives the certificate (PEM)."""

    def __init__(
        self,
        name: NodeName,
        own: Keeps,
        sign: Callable[[str], Awaitable[str]],
        *,
        now: Callable[[], datetime] = certificates.utc_now,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._name, self._own, self._sign, self._now, self._sleep = name, own, sign, now, sleep

    async def run(self) -> None:
        """Renew whenever it is time, until cancelled; what fails is tried again, more and more seldom."""
        pause = RETRY_FIRST
        while True:
            due = certificates.renew_at(self._own.certificate())
            left = (due - self._now()) / timedelta(seconds=1)
            if left > 0:
                await self._sleep(min(left, LOOK))
                continue
            try:
                await self.renew()
                pause = RETRY_FIRST
            except KatError as error:
                ends = self._own.certificate().not_valid_after_utc
                log.warning("certificate not renewed", ends=ends.isoformat(), error=str(error), retry_in=pause)
                await self._sleep(pause)
                pause = min(RETRY_MOST, pause * 2)

    async def renew(self) -> None:
        """Renew now. The private key is new as well, and never leaves this host."""
        key = certificates.make_key()
        answer = await self._sign(certificates.make_csr(key, self._name).decode())
        fresh = certificates.load_certificate(answer.encode())
        if fresh.public_key() != key.public_key() or certificates.identity_of(fresh) != self._name:
            raise InvalidInput("the API signed another certificate than the one asked for")
        self._own.replace(certificates.key_pem(key), certificates.certificate_pem(fresh))
        log.info("certificate renewed", serial=f"{fresh.serial_number:x}", ends=fresh.not_valid_after_utc.isoformat())
