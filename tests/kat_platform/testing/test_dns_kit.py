"""The DNS kit passes the fake, and fails drivers that are broken on purpose: a kit that cannot fail proves nothing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from kat_platform.interfaces.dns import Dns, DnsView, ListenAddress
from kat_platform.interfaces.driver import DriverContext
from kat_platform.testing.conformance.dns import KIT, subject
from kat_platform.testing.conformance.kit import Check
from kat_platform.testing.fakes.dns import FakeDns


@pytest.mark.parametrize("check", KIT.checks, ids=lambda check: check.name)
async def test_the_fake_keeps_the_contract(check: Check[Dns]) -> None:
    outcome = await KIT.run_one(check, subject(lambda context: FakeDns(None, context)))
    assert outcome.passed, outcome.failure


class Stale(FakeDns):
    """Never takes a second view."""

    async def publish(self, view: DnsView) -> None:
        if not self.views:
            await super().publish(view)


class Careless(FakeDns):
    """Treats every instance as ready."""

    async def publish(self, view: DnsView) -> None:
        workloads = tuple(
            replace(one, instances=tuple(replace(instance, ready=True) for instance in one.instances))
            for one in view.workloads
        )
        await super().publish(replace(view, workloads=workloads))


class Shouting(FakeDns):
    """Gives every name back in capitals."""

    async def answer(self, packet: bytes, size: int) -> bytes | None:
        answer = await super().answer(packet, size)
        return None if answer is None else answer.replace(b"shop", b"SHOP")


class Talkative(FakeDns):
    """Answers more than fits."""

    async def answer(self, packet: bytes, size: int) -> bytes | None:
        return await super().answer(packet, 65535)


class Clinging(FakeDns):
    """Goes on listening where it no longer should."""

    async def listen(self, addresses: tuple[ListenAddress, ...]) -> tuple[ListenAddress, ...]:
        before = tuple(self._open)
        found = await super().listen((*before, *addresses) if addresses else ())
        return tuple(one for one in found if one not in before)


class Sorted(FakeDns):
    """Always gives the same order."""

    async def answer(self, packet: bytes, size: int) -> bytes | None:
        import random

        state = random.getstate()
        random.seed(1)
        try:
            return await super().answer(packet, size)
        finally:
            random.setstate(state)


class Leaking(FakeDns):
    """Asks the upstream for everything it does not know, our own names included."""

    async def answer(self, packet: bytes, size: int) -> bytes | None:
        answer = await super().answer(packet, size)
        if self.upstreams and answer is not None and answer[3] & 0xF == 3:
            self.views.append(replace(self.views[-1], domain="invalid", reverse_zones=()))
            return await super().answer(packet, size)
        return answer


@pytest.mark.parametrize(
    ("broken", "check"),
    [
        (Stale, "swap"),
        (Careless, "workloads"),
        (Shouting, "case_is_preserved"),
        (Talkative, "streams"),
        (Clinging, "listening"),
        (Leaking, "forwarding"),
        (Sorted, "random_order"),
    ],
)
async def test_the_kit_notices(broken: Callable[[None, DriverContext], FakeDns], check: str) -> None:
    one = next(one for one in KIT.checks if one.name == check)
    outcome = await KIT.run_one(one, subject(lambda context: broken(None, context)))
    assert not outcome.passed
