"""The driver keeps the network contract, with real packets."""

from __future__ import annotations

import pytest
from kat_net_wireguard.config import WireGuardConfig
from kat_net_wireguard.driver import WireGuardNetwork

from kat_platform.testing.conformance import driver as any_driver
from kat_platform.testing.conformance.kit import Check
from kat_platform.testing.conformance.network import KIT, subject
from kat_platform.testing.conformance.network_scene import Scene


@pytest.mark.real
@pytest.mark.parametrize("check", any_driver.KIT.checks, ids=lambda check: check.name)
async def test_the_driver_is_a_driver(check: Check[any_driver.Unstarted]) -> None:
    subject_of = any_driver.subject(lambda context: WireGuardNetwork(WireGuardConfig(), context))
    outcome = await any_driver.KIT.run_one(check, subject_of)
    assert outcome.passed, f"{outcome.rule}: {outcome.failure}"


@pytest.mark.real
@pytest.mark.parametrize("check", KIT.checks, ids=lambda check: check.name)
async def test_the_driver_keeps_the_contract(check: Check[Scene]) -> None:
    outcome = await KIT.run_one(check, subject(lambda context: WireGuardNetwork(WireGuardConfig(), context)))
    assert outcome.passed, f"{outcome.rule}: {outcome.failure}"
