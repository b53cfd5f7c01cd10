"""The driver passes the kit of its contract."""

from __future__ import annotations

import pytest
from kat_dns.config import DnsConfig
from kat_dns.driver import KatDns

from kat_platform.interfaces.dns import Dns
from kat_platform.testing.conformance import driver as driver_kit
from kat_platform.testing.conformance.dns import KIT, subject
from kat_platform.testing.conformance.kit import Check


@pytest.mark.parametrize("check", KIT.checks, ids=lambda check: check.name)
async def test_contract(check: Check[Dns]) -> None:
    outcome = await KIT.run_one(check, subject(lambda context: KatDns(DnsConfig(), context)))
    assert outcome.passed, outcome.failure


@pytest.mark.parametrize("check", driver_kit.KIT.checks, ids=lambda check: check.name)
async def test_driver_contract(check: Check[driver_kit.Unstarted]) -> None:
    outcome = await driver_kit.KIT.run_one(check, driver_kit.subject(lambda context: KatDns(DnsConfig(), context)))
    assert outcome.passed, outcome.failure
