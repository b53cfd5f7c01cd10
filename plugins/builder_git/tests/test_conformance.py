"""The driver keeps the rules of all drivers."""

from __future__ import annotations

import pytest
from kat_builder_git.driver import GitBuilder, GitConfig

from kat_platform.testing.conformance import driver as driver_kit
from kat_platform.testing.conformance.kit import Check


@pytest.mark.parametrize("check", driver_kit.KIT.checks, ids=lambda check: check.name)
async def test_driver_contract(check: Check[driver_kit.Unstarted]) -> None:
    outcome = await driver_kit.KIT.run_one(check, driver_kit.subject(lambda context: GitBuilder(GitConfig(), context)))
    assert outcome.passed, outcome.failure
