"""The scheduler keeps KAT's contract, as KAT's own kit judges it, and does what its name says."""

from __future__ import annotations

from pathlib import Path

import pytest
from least_loaded.scheduler import LeastLoadedConfig, LeastLoadedScheduler

from kat_platform.interfaces.driver import DriverContext
from kat_platform.interfaces.scheduler import Demand, PendingInstance, SchedulableNode, Scheduler, SchedulingSnapshot
from kat_platform.testing.conformance.kit import Check
from kat_platform.testing.conformance.scheduler import KIT, subject


def make(context: DriverContext) -> LeastLoadedScheduler:
    return LeastLoadedScheduler(LeastLoadedConfig(), context)


@pytest.mark.parametrize("check", KIT.checks, ids=lambda check: check.name)
async def test_contract(check: Check[Scheduler]) -> None:
    outcome = await KIT.run_one(check, subject(make))
    assert outcome.passed, f"{outcome.rule}: {outcome.failure}"


def test_the_emptiest_node_is_next(tmp_path: Path) -> None:
    nodes = (SchedulableNode("large", 4000, 4000), SchedulableNode("small", 2000, 2000))
    pending = tuple(PendingInstance(str(i), Demand(f"d{i}", "default", f"w{i}", {}, 500, 500)) for i in range(6))
    plan = make(DriverContext("n", tmp_path, tmp_path, "t")).schedule(SchedulingSnapshot(1, nodes), pending)
    assert [placement.node for placement in plan.placements] == ["large", "large", "small", "large", "large", "small"]
