"""The driver passes the kit of its contract."""

from __future__ import annotations

import pytest
from kat_auth_mtls.driver import MtlsAuth, MtlsConfig

from kat_platform.interfaces.auth import Auth
from kat_platform.testing.conformance import driver as driver_kit
from kat_platform.testing.conformance.auth import KIT, subject
from kat_platform.testing.conformance.kit import Check


@pytest.mark.parametrize("check", KIT.checks, ids=lambda check: check.name)
async def test_contract(check: Check[Auth]) -> None:
    outcome = await KIT.run_one(check, subject(lambda context: MtlsAuth(MtlsConfig(), context)))
    assert outcome.passed, outcome.failure


@pytest.mark.parametrize("check", driver_kit.KIT.checks, ids=lambda check: check.name)
async def test_driver_contract(check: Check[driver_kit.Unstarted]) -> None:
    outcome = await driver_kit.KIT.run_one(check, driver_kit.subject(lambda context: MtlsAuth(MtlsConfig(), context)))
    assert outcome.passed, outcome.failure
