"""What the tests of the default scheduler share."""

from __future__ import annotations

from pathlib import Path

import pytest
from kat_sched_binpack.driver import BinpackScheduler

from kat_platform.interfaces.driver import DriverContext


@pytest.fixture
def binpack(tmp_path: Path) -> BinpackScheduler:
    """The scheduler with its default configuration."""
    return BinpackScheduler(None, DriverContext("n1", tmp_path, tmp_path, "kt1"))
