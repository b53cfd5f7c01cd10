"""What the measurements make of what they see."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench import changes, figures, steady, stream
from bench.etcds import timers
from bench.eviction import counted
from bench.rest import short_name
from kat_platform.testing.conformance.store import free_port

SAMPLES = st.lists(st.floats(0, 1e6), min_size=1, max_size=50)


@given(SAMPLES, st.floats(0.1, 100))
def test_a_percentile_is_a_sample_that_enough_do_not_exceed(samples: list[float], percent: float) -> None:
    found = figures.percentile(samples, percent)
    assert found in samples
    assert sum(1 for each in samples if each <= found) >= len(samples) * percent / 100 - 1e-9
    assert sum(1 for each in samples if each < found) < len(samples) * percent / 100 + 1e-9


@given(st.lists(st.tuples(st.floats(0.1, 1e3), st.floats(0.1, 1e3)), min_size=1))
def test_a_ratio_is_of_pairs(pairs: list[tuple[float, float]]) -> None:
    row = figures.ratio("r", [a for a, _ in pairs], [b for _, b in pairs])
    assert row.least <= row.median <= row.most
    assert row.runs == len(pairs)
    assert row.most == max(a / b for a, b in pairs)


def test_pairs_that_are_none_are_refused() -> None:
    with pytest.raises(ValueError, match="zip"):
        figures.ratio("r", [1.0, 2.0], [1.0])


def test_only_timers_are_taken_from_a_command_line() -> None:
    line = [
        "etcd",
        "--name=n2",
        "--heartbeat-interval=100",
        "--election-timeout=1000",
        "--pre-vote=true",
        "--wal-dir=x",
    ]
    assert timers(line) == ["--heartbeat-interval=100", "--election-timeout=1000", "--pre-vote=true"]


def test_a_node_that_was_called_lost_again_counts_again() -> None:
    events = [
        {"reason": "NodeNotReady", "objectName": "n2", "count": 1},
        {"reason": "NodeReady", "objectName": "n2", "count": 9},
        {"reason": "NodeNotReady", "objectName": "n2", "count": 2},
    ]
    before = Counter({"n2": 1})
    assert counted(events) - before == Counter({"n2": 2})


def test_the_zeros_at_the_end_of_a_log_are_no_growth(tmp_path: Path) -> None:
    folder = tmp_path / "member" / "wal"
    folder.mkdir(parents=True)
    (folder / "0.wal").write_bytes(b"entry" + bytes(1000))
    (folder / "0.tmp").write_bytes(b"prepared")
    assert steady.wal_bytes(tmp_path) == 5


def test_what_was_used_is_told_by_kind_of_node() -> None:
    kinds = {"n1": "control plane", "n2": "leader", "n3": "control plane", "n4": "worker", "n5": "worker"}
    assert {f"n{i}": steady.kind_of(i, i == 2) for i in range(1, 6)} == kinds
    before = {node: steady.Use(1.0, 0, 0, 100, 10, 50) for node in kinds}
    after = {node: steady.Use(1.6, 2048, 1024, 200, 10, 50) for node in kinds}
    rows = {row.what.partition(": ")[2]: row for row in steady.rows(before, after, kinds, 60.0)}
    assert rows["etcd's disk writes, each"].median == 6000
    assert rows["etcd's WAL grows, each"].most == 0
    assert rows["CPU, worker"].median == pytest.approx(1.0)
    assert rows["CPU, worker"].runs == 2
    assert rows["RSS, leader"].median == 2


def test_changes_are_told_by_kind_and_not_by_object() -> None:
    assert changes.by_kind(["/kat/nodes/n1", "/kat/nodes/n2", "/kat/leader"]) == {"kat/nodes": 2, "kat/leader": 1}


@pytest.mark.parametrize(
    ("line", "name"),
    [
        ("/usr/bin/etcd --name=n1 --data-dir=/x/kat", "etcd"),
        ("podman --root /x/kat system service --time 0", "podman service"),
        ("wireguard-go -f kat0", "wireguard-go"),
        ("/usr/bin/conmon --api-version 1 -c kat", "conmon"),
        ("python -P -m kat_platform.cli.agent_main run", "agent"),
        ("sleep 5", ""),
    ],
)
def test_processes_are_told_apart(line: str, name: str) -> None:
    assert short_name(line) == name


def test_the_two_ends_of_a_stream_understand_each_other() -> None:
    port = free_port()
    command = (sys.executable, "-I", stream.__file__, "serve", "127.0.0.1", str(port))
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        try:
            assert child.stdout is not None
            assert child.stdout.readline() == b"ready\n"
            took = stream.ask("127.0.0.1", port, 20)
            assert len(took) == 20
            assert stream.push("127.0.0.1", port, 0.8) > 1e6
        finally:
            child.kill()
