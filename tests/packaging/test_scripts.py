"""The scripts behind make: supervision, and telling what a test run left behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

HOUSE = Path(__file__).resolve().parents[2]
SUPERVISE = HOUSE / "scripts" / "supervise.sh"
LEFTOVERS = HOUSE / "scripts" / "leftovers.py"


def until(condition: Callable[[], bool], seconds: float = 10) -> bool:
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.05)
    return True


def alive(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()


@pytest.fixture
def supervised(tmp_path: Path):
    """Start a command that writes its process id on each start, and end everything afterwards."""
    starts, pidfile, log = tmp_path / "starts", tmp_path / "run" / "pid", tmp_path / "log"
    command = tmp_path / "command.sh"
    command.write_text(
        f"#!/bin/sh\necho $$ >>{starts}\ntrap 'echo said goodbye; exit 0' TERM\nwhile :; do sleep 0.05; done\n"
    )
    command.chmod(0o755)
    subprocess.run([SUPERVISE, pidfile, log, command], check=True, timeout=10)
    assert until(starts.exists)
    assert until(pidfile.exists)
    yield starts, pidfile, log
    if pidfile.exists():
        os.kill(int(pidfile.read_text()), signal.SIGTERM)
        assert until(lambda: not pidfile.exists())


def pids(starts: Path) -> list[int]:
    return [int(line) for line in starts.read_text().split()]


def test_a_killed_command_is_started_again(supervised):
    starts, _, log = supervised
    os.kill(pids(starts)[0], signal.SIGKILL)
    assert until(lambda: len(pids(starts)) == 2), log.read_text()
    assert "ended with code 137" in log.read_text()


def test_ending_the_supervisor_ends_the_command_gently(supervised):
    starts, pidfile, log = supervised
    supervisor, command = int(pidfile.read_text()), pids(starts)[0]
    os.kill(supervisor, signal.SIGTERM)
    assert until(lambda: not alive(command) and not alive(supervisor))
    assert "said goodbye" in log.read_text()
    assert not pidfile.exists()


def test_it_has_no_terminal_and_a_session_of_its_own(supervised):
    _, pidfile, _ = supervised
    fields = Path(f"/proc/{pidfile.read_text().strip()}/stat").read_text().rpartition(")")[2].split()
    session, terminal = int(fields[3]), int(fields[4])
    assert terminal == 0
    assert session != os.getsid(0)


def own_prefix() -> str:
    """Give what names begin with here and nowhere else: other tests run at the same time, and keep what is theirs."""
    return f"ktl{os.getpid() % 10000}"


def leftovers(*arguments: str | Path, run: str, folder: Path) -> subprocess.CompletedProcess[str]:
    environment = {"PATH": os.environ["PATH"], "TMPDIR": str(folder), "KAT_TEST_RUN": run}
    environment["KAT_TEST_PREFIX"] = own_prefix()
    command = [sys.executable, LEFTOVERS, *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=30)


def test_a_process_left_behind_is_told_ended_and_fails_the_run(tmp_path: Path):
    before = tmp_path / "before"
    before.write_text(leftovers("before", run="kt-mine", folder=tmp_path).stdout)
    json.loads(before.read_text())
    environment = {"PATH": os.environ["PATH"], "KAT_TEST_RUN": "kt-mine"}
    mine = subprocess.Popen(["sleep", "300"], env=environment)
    other = subprocess.Popen(["sleep", "300"], env={**environment, "KAT_TEST_RUN": "kt-other"})
    try:
        told = leftovers("after", before, run="kt-mine", folder=tmp_path)
        assert told.returncode == 1
        assert f"process {mine.pid} sleep 300" in told.stderr
        assert mine.wait(5) == -signal.SIGKILL
        assert other.poll() is None, "what belongs to another run must be left alone"
        assert leftovers("after", before, run="kt-mine", folder=tmp_path).returncode == 0
    finally:
        for process in (mine, other):
            process.kill()
            process.wait()


@pytest.mark.real
def test_what_is_left_in_the_kernel_is_told_and_removed(tmp_path: Path):
    name, folder = own_prefix(), Path("/run/kat", own_prefix())
    before, mounted = tmp_path / "before", tmp_path / "mounted"
    before.write_text(leftovers("before", run="kt-mine", folder=tmp_path).stdout)
    mounted.mkdir()
    commands = (
        ["ip", "netns", "add", name],
        ["ip", "link", "add", name, "type", "bridge"],
        ["nft", "add", "table", "inet", name],
        ["mount", "-t", "tmpfs", "kt", str(mounted)],
    )
    try:
        folder.mkdir(parents=True)
        for command in commands:
            subprocess.run(command, check=True)
    finally:
        told = leftovers("after", before, run="kt-mine", folder=tmp_path)
    assert told.returncode == 1
    assert not folder.exists()
    for line in (
        f"folder {folder}",
        f"network namespace {name}",
        f"interface {name}",
        f"nftables table inet {name}",
        f"mount {mounted}",
    ):
        assert line in told.stderr
    again = leftovers("after", before, run="kt-mine", folder=tmp_path)
    assert again.returncode == 0, again.stderr
