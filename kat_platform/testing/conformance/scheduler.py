"""The conformance kit of schedulers: ``KIT.run(subject(factory))`` tries every rule of the contract.

Capabilities a driver may state in its ``info``: ``preempts`` (it makes room by priority: then it must), ``scores`` (it
goes by contributed scores: then it must), ``rebalances`` (shown to people; the method itself is what counts).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

from kat_platform.interfaces.driver import Driver, DriverContext
from kat_platform.interfaces.scheduler import Scheduler
from kat_platform.testing.conformance.kit import Kit, Subject
from kat_platform.testing.conformance.scheduler_batch import BATCH
from kat_platform.testing.conformance.scheduler_filters import FILTERS
from kat_platform.testing.conformance.scheduler_rules import RULES
from kat_platform.testing.conformance.started import started

KIT: Kit[Scheduler] = Kit("scheduler", [*FILTERS.checks, *RULES.checks, *BATCH.checks])
"""Every rule of the scheduler contract."""


def subject(factory: Callable[[DriverContext], Driver]) -> Subject[Scheduler]:
    """Make a fresh, started scheduler for each check; ``factory`` constructs the driver."""
    return started(lambda context: cast(Scheduler, factory(context)))
