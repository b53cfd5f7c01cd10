"""For every test of the house: which KAT is under test, and real parts only where they can be had."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

import kat_platform

HOUSE = Path(__file__).resolve().parents[1]


def pytest_report_header() -> str:
    """Say whose code is under test."""
    return f"kat {kat_platform.__version__} from {Path(kat_platform.__file__).parent}"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Let tests with real parts fail early, with the reason, where they cannot work."""
    if os.geteuid() != 0 and any(item.get_closest_marker("real") for item in items):
        raise pytest.UsageError("tests marked 'real' need root; leave them out with: -m 'not real'")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say how many tests were skipped, also when none was."""
    terminalreporter.write_line(f"skipped: {len(terminalreporter.stats.get('skipped', []))}")
