"""The default scheduler keeps the scheduler contract, with and without vectors."""

from __future__ import annotations

import pytest
from kat_sched_binpack.config import BinpackConfig
from kat_sched_binpack.driver import BinpackScheduler

from kat_platform.interfaces.driver import Driver, DriverContext
from kat_platform.interfaces.scheduler import Rebalances, Scheduler
from kat_platform.testing.conformance.kit import Check
from kat_platform.testing.conformance.scheduler import KIT, subject


@pytest.mark.parametrize("vector_nodes", [300, 0], ids=["plain", "vectors"])
@pytest.mark.parametrize("check", KIT.checks, ids=lambda check: check.name)
async def test_contract(check: Check[Scheduler], vector_nodes: int) -> None:
    def make(context: DriverContext) -> Driver:
        return BinpackScheduler(BinpackConfig(vector_nodes=vector_nodes), context)

    outcome = await KIT.run_one(check, subject(make))
    assert outcome.passed, f"{outcome.rule}: {outcome.failure}"


def test_what_it_says_it_can_it_can(binpack: BinpackScheduler) -> None:
    assert isinstance(binpack, Scheduler)
    assert isinstance(binpack, Rebalances)
    assert BinpackScheduler.info.name == "binpack"
