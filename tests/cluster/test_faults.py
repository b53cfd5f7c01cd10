"""A cluster of five nodes under load, broken again and again by a seed; no rule of ``faults.checks`` is ever broken.

``KAT_TEST_SEED`` sets the seed, which is told; on failure the history and the nodes' logs are kept, and it is said
where.
"""

from __future__ import annotations

import os
import random
import tempfile
from collections.abc import Sequence
from pathlib import Path

import pytest

from .faults.checks import violations
from .faults.figures import figures, table
from .faults.history import read
from .faults.run import FaultLab, Run
from .faults.schedule import KINDS, Step, Victim, chosen, drawn, fault
from .host import wait_for
from .lab import MakeLab
from .test_lab import make_lab

__all__ = ["make_lab"]

pytestmark = [pytest.mark.slow]
NODES = 5
SHORT_SEED = 7
"""Draws a frozen node, a killed store, a full disk and a reboot."""


def seed_of(usual: int) -> int:
    """Give the seed: the one that was asked for, else the usual one."""
    return int(os.environ.get("KAT_TEST_SEED") or usual)


def kinds() -> tuple[str, ...]:
    """Name the kinds of faults to draw from: those in ``KAT_TEST_FAULTS`` (with commas between), else all."""
    return tuple(filter(None, os.environ.get("KAT_TEST_FAULTS", "").split(","))) or tuple(KINDS)


def survive(lab: FaultLab, folder: Path, steps: Sequence[Step], *, seed: int, webs: int) -> None:
    """Do a run and fail with every violation, the seed, and where everything is."""
    lab.up(NODES)
    run = Run(lab, folder / "run", nodes=NODES, webs=webs)
    run.make_workloads()
    wanted = webs + 1 + NODES

    def started() -> bool:
        items = lab.client.get("namespaces", run.namespace, "instances")["items"]
        return len(items) == wanted and all(item["ready"] for item in items)

    wait_for(started, f"{wanted} instances are ready", 60)
    ended = False
    try:
        run.go(steps, seed=seed)
        ended = True
    finally:
        history = read(run.path)
        found = violations(history)
        print(f"seed {seed}\n{table(figures(history))}")
        if found or not ended:
            place = Path(tempfile.mkdtemp(prefix="kat-faults-", dir=os.environ.get("KAT_TEST_KEEP") or "/var/tmp"))
            run.keep(place)
            told = "\n".join(map(str, found[:20]))
            raise AssertionError(f"seed {seed}: {len(found)} violations; history and logs are in {place}\n{told}")


@pytest.mark.timeout(300)
def test_a_short_run(make_lab: MakeLab, tmp_path: Path) -> None:
    seed = seed_of(SHORT_SEED)
    first = fault("kill-agent", Victim.LEADER, 1.0)
    survive(make_lab(FaultLab), tmp_path, (first, *drawn(seed, 4, kinds=kinds(), longest=10.0)), seed=seed, webs=8)


@pytest.mark.soak
@pytest.mark.timeout(1200)
def test_every_fault_in_turn(make_lab: MakeLab, tmp_path: Path) -> None:
    faults = chosen([f"n{number}" for number in range(1, NODES + 1)])
    survive(make_lab(FaultLab), tmp_path, faults, seed=0, webs=24)


@pytest.mark.soak
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("turn", range(3))
def test_random_faults(make_lab: MakeLab, tmp_path: Path, turn: int) -> None:
    seed = seed_of(random.SystemRandom().randrange(10**6)) + turn
    survive(make_lab(FaultLab), tmp_path, drawn(seed, 12, kinds=kinds(), together=0.4), seed=seed, webs=24)
