"""A machine whose agent is started: it is seen to run from then on, however long it took to get there."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

import pytest

from kat_platform.errors import Unavailable
from kat_platform.lab import processes
from kat_platform.lab.home import VARIABLE, Home
from kat_platform.lab.machine import Machine
from kat_platform.lab.plan import plan_lab


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    """One that nothing is made of: what runs on it are processes that carry its name."""
    monkeypatch.setenv(VARIABLE, str(tmp_path))
    monkeypatch.setattr(Machine, "plug_in", lambda _: None)
    monkeypatch.setattr(processes, "of_namespace", lambda _: [*map(int, filter(str.isdecimal, os.listdir("/proc")))])
    lab = plan_lab("lab", nodes=1, control_plane=1, taken=(), now=0.0)
    return Machine(Home("lab"), lab, lab.nodes[0])


def enters_after(seconds: float, then: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the agent's command take its time before it becomes the agent, which does something then."""

    def command(_: Machine, *arguments: str) -> tuple[str, ...]:
        agent = [sys.executable, "-c", then, "kat_platform.cli.agent_main", *arguments]
        program = f"import os, time; time.sleep({seconds}); os.execv({sys.executable!r}, {agent!r})"
        return (sys.executable, "-c", program)

    monkeypatch.setattr(Machine, "agent_command", command)


def test_an_agent_that_was_started_is_seen_to_run(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    enters_after(0.3, "import time; time.sleep(60)", monkeypatch)
    machine.start()
    try:
        machine.wait_initialised()
    finally:
        pid = machine.agent_pid()
        if pid is not None:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)


def test_one_that_ends_at_once_is_told_at_once_with_its_last_words(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    enters_after(0.0, "raise SystemExit('it is the wrong day')", monkeypatch)
    began = time.monotonic()
    machine.start()
    while machine.agent_pid() is not None:
        time.sleep(0.01)
    assert time.monotonic() - began < 4, "nobody waits for what has ended"
    with pytest.raises(Unavailable, match="has ended: it is the wrong day"):
        machine.wait_initialised()
