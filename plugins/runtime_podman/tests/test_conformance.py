"""The driver keeps the runtime contract, on real Podman."""

from __future__ import annotations

import pytest
from kat_runtime_podman.config import PodmanConfig
from kat_runtime_podman.driver import PodmanRuntime

from kat_platform.testing.conformance.kit import Check
from kat_platform.testing.conformance.runtime import KIT, subject


@pytest.mark.real
@pytest.mark.parametrize("check", KIT.checks, ids=lambda check: str(check.name))
async def test_contract(check: Check) -> None:  # type: ignore[type-arg]
    outcome = await KIT.run_one(check, subject(lambda context: PodmanRuntime(PodmanConfig(local_stores=()), context)))
    assert outcome.passed, f"{outcome.rule}: {outcome.failure}"
