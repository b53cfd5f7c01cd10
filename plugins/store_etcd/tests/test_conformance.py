"""The driver keeps the store contract, on a real etcd."""

from __future__ import annotations

from pathlib import Path

import pytest
from kat_store_etcd.config import EtcdConfig
from kat_store_etcd.driver import EtcdStore

from kat_platform.interfaces.driver import ChecksHost, Driver, DriverContext, Resettable
from kat_platform.interfaces.store import HasMembers, Restores, Store, SurvivesAlone
from kat_platform.testing.conformance.kit import Check
from kat_platform.testing.conformance.store import KIT, subject


@pytest.mark.real
@pytest.mark.parametrize("check", KIT.checks, ids=lambda check: check.name)
async def test_etcd_keeps_the_contract(check: Check[Store]) -> None:
    outcome = await KIT.run_one(check, subject(lambda context: EtcdStore(EtcdConfig(), context)))
    assert outcome.passed, f"{outcome.rule}: {outcome.failure}"


@pytest.mark.parametrize("power", [Driver, Store, HasMembers, Restores, SurvivesAlone, Resettable, ChecksHost])
def test_the_driver_has_the_optional_powers(power: type, tmp_path: Path) -> None:
    context = DriverContext("kt-a", tmp_path / "data", tmp_path / "run", "kt0")
    assert isinstance(EtcdStore(EtcdConfig(), context), power)
    assert list(tmp_path.iterdir()) == [], "construction must not do I/O"


async def test_the_host_check_tells_what_is_missing() -> None:
    found = await EtcdStore.check_host(EtcdConfig(binary="no-such-etcd"))
    assert [result.ok for result in found if result.name == "etcd"] == [False]
    assert all(result.remedy for result in found if not result.ok)
