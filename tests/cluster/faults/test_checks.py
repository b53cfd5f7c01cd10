"""Each rule of the checker is broken by a history made by hand, and kept by one that looks much like it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from .checks import RETURN_FAILURES, RULES, SETTLE_SECONDS, SILENCE_SECONDS, TWICE_SECONDS, violations
from .figures import figures, table
from .history import Entry

WANTED = {
    "at": 0.0,
    "kind": "wanted",
    "workloads": {"web": {"replicas": 2, "pinned": False}, "data": {"replicas": 1, "pinned": True}},
}


def write(at: float, value: int, outcome: str = "acknowledged", cell: str = "cell-a") -> Entry:
    return {
        "at": at,
        "began": at - 0.1,
        "kind": "write",
        "node": "n1",
        "cell": cell,
        "value": value,
        "outcome": outcome,
    }


def seen(at: float, cells: dict[str, int], began: float | None = None) -> Entry:
    began = at - 0.1 if began is None else began
    return {"at": at, "began": began, "kind": "read", "node": "n2", "outcome": "ok", "cells": cells}


def fault(
    made: float, healed: float, settled: float | None, *, nodes: tuple[str, ...] = ("n3",), reach: str = "silent"
) -> list[Entry]:
    found: list[Entry] = [
        {"at": made, "kind": "fault", "number": 1, "name": "cut", "nodes": nodes, "reach": reach},
        {"at": healed, "kind": "healed", "number": 1},
    ]
    return found if settled is None else [*found, {"at": settled, "kind": "settled", "number": 1}]


def runs(at: float, *rows: tuple[str, str, str, int]) -> Entry:
    running = [[node, workload, instance, pid, 100 * pid] for node, workload, instance, pid in rows]
    return {"at": at, "kind": "runs", "running": running}


def request(at: float, outcome: str, *, node: str = "n1", target: str | None = None) -> Entry:
    to = [target, f"web-on-{target}"] if target else None
    return {"at": at, "began": at - 1.0, "kind": "request", "node": node, "target": to, "by": "", "outcome": outcome}


def change(term: int, revision: int, node: str) -> Entry:
    return {"at": 99.0, "kind": "change", "term": term, "revision": revision, "node": node}


ONE, TWO, OTHER = ("n1", "web", "w1", 11), ("n2", "web", "w2", 12), ("n3", "web", "w3", 13)
DATA, DATA_AGAIN = ("n3", "data", "d1", 21), ("n1", "data", "d2", 22)
CUT = fault(10, 30, 35)

BROKEN: dict[str, tuple[str, list[Entry]]] = {
    "a write that is not there": ("acknowledged write lost", [write(1, 1), seen(3, {})]),
    "a write undone": ("acknowledged write lost", [write(1, 1), write(2, 2), seen(3, {"cell-a": 1})]),
    "a value out of nowhere": ("acknowledged write lost", [write(1, 1), seen(3, {"cell-a": 7})]),
    "a cell out of nowhere": ("acknowledged write lost", [seen(3, {"cell-b": 1})]),
    "never well again": ("not settled", fault(10, 30, None)),
    "late well again": ("not settled", fault(10, 30, 31 + SETTLE_SECONDS)),
    "one too many without a fault": ("runs twice", [runs(5, ONE, TWO, OTHER)]),
    "one too many among the others": ("runs twice", [*CUT, runs(20, ONE, TWO, ("n2", "web", "w4", 14))]),
    "one too many long after": ("runs twice", [*CUT, runs(30.1 + TWICE_SECONDS, ONE, TWO, OTHER)]),
    "a pinned one twice while cut off": ("runs twice", [*CUT, runs(20, DATA, DATA_AGAIN)]),
    "restarted for nothing": ("container touched", [runs(5, ONE), runs(6, ("n1", "web", "w1", 77))]),
    "ended elsewhere": ("container touched", [*CUT, runs(19, ONE, OTHER), runs(20, OTHER)]),
    "ended after a short silence": ("container touched", [*fault(10, 13, 15), runs(9, OTHER), runs(14)]),
    "started anew while only silent": (
        "container touched",
        [*CUT, runs(9, OTHER), runs(12, ("n3", "web", "w3", 55))],
    ),
    "back under another number": (
        "container touched",
        [*CUT, runs(9, OTHER), runs(20), runs(21, ("n3", "web", "w3", 55))],
    ),
    "a direct request": ("request failed", [*CUT, request(20, "refused", target="n2")]),
    "a virtual one without a fault": ("request failed", [request(5, "timed out")]),
    "a virtual one too late": ("request failed", [*CUT, request(12 + SILENCE_SECONDS, "timed out")]),
    "a virtual one while only agents suffer": (
        "request failed",
        [*fault(10, 30, 35, reach="control"), request(20, "timed out")],
    ),
    "many virtual ones after the return": (
        "request failed",
        [*CUT, *(request(32 + n / 10, "refused") for n in range(RETURN_FAILURES + 1))],
    ),
    "two that lead": ("two leaders", [change(3, 10, "n1"), change(5, 12, "n2"), change(3, 13, "n1")]),
    "one that writes into another's term": ("two leaders", [change(3, 10, "n1"), change(5, 10, "n2")]),
}

KEPT: dict[str, list[Entry]] = {
    "nothing": [],
    "writes that are there": [write(1, 1), write(2, 2), seen(3, {"cell-a": 2})],
    "a write under way": [write(1, 1), write(4, 2), seen(4.5, {"cell-a": 1}, began=3)],
    "a write nobody knows of, there": [write(1, 1), write(2, 2, "unknown"), seen(3, {"cell-a": 2})],
    "a write nobody knows of, not there": [write(1, 1), write(2, 2, "unknown"), seen(3, {"cell-a": 1})],
    "twice while cut off": [*CUT, runs(20, ONE, TWO, OTHER), runs(29 + TWICE_SECONDS, ONE, TWO, OTHER)],
    "a pinned one away and back": [*CUT, runs(5, DATA), runs(20), runs(31, DATA)],
    "the replaced one ends": [*CUT, runs(31, ONE, TWO, OTHER), runs(32, ONE, TWO)],
    "started anew after a power cut": [
        *fault(10, 12, 15, reach="power"),
        runs(9, OTHER),
        runs(11),
        runs(13, ("n3", "web", "w3", 55)),
    ],
    "requests of and to who is struck": [
        *CUT,
        request(20, "timed out", node="n3"),
        request(20, "timed out", target="n3"),
        request(11 + SILENCE_SECONDS, "timed out"),
    ],
    "a few virtual ones after the return": [*CUT, request(32, "refused"), request(33, "refused")],
    "a virtual one while packets get lost": [*fault(10, 30, 35, reach="lossy"), request(28, "timed out")],
    "a virtual one after another fault has come": [
        *CUT,
        {"at": 20.0, "kind": "fault", "number": 2, "name": "kill-agent", "nodes": ["n1"], "reach": "control"},
        {"at": 24.0, "kind": "healed", "number": 2},
        {"at": 35.0, "kind": "settled", "number": 2},
        request(29, "timed out"),
    ],
    "whoever asked is gone": [request(5, "asker-gone"), request(5, "target-gone", target="n2")],
    "one leads after the other": [change(3, 10, "n1"), change(3, 11, "n1"), change(5, 12, "n2")],
}


@pytest.mark.parametrize("name", BROKEN)
def test_what_must_not_be_is_found(name: str) -> None:
    rule, entries = BROKEN[name]
    found = violations([WANTED, *entries])
    assert {violation.rule for violation in found} == {rule}
    assert all(str(violation) for violation in found)


@pytest.mark.parametrize("name", KEPT)
def test_what_may_be_is_not(name: str) -> None:
    assert violations([WANTED, *KEPT[name]]) == []


def test_every_rule_is_broken_by_some_history() -> None:
    assert {rule for rule, _ in BROKEN.values()} == set(RULES)


@given(st.lists(st.integers(0, 3), min_size=1, max_size=30), st.integers(0, 29))
def test_any_acknowledged_write_that_is_lost_is_found(kinds: list[int], lost: int) -> None:
    """Random writes to one cell; the last acknowledged one is left out of what is read at the end."""
    entries = [write(n + 1.0, n + 1, "acknowledged" if kind else "unknown") for n, kind in enumerate(kinds)]
    acknowledged = [entry["value"] for entry in entries if entry["outcome"] == "acknowledged"]
    last = max(acknowledged, default=0)
    assert violations([*entries, seen(100, {"cell-a": last} if last else {})]) == []
    if acknowledged:
        value = acknowledged[lost % len(acknowledged)] - 1
        assert violations([*entries, seen(100, {"cell-a": min(value, last - 1)})])


def test_figures_count_what_healthy_nodes_asked() -> None:
    entries = [
        WANTED,
        *CUT,
        request(12, "ok"),
        request(13, "timed out"),
        request(14, "ok", target="n2"),
        request(15, "timed out", node="n3"),
        runs(33, ONE, TWO, OTHER),
        write(20, 1),
        write(21, 2, "unknown"),
    ]
    (found,) = figures(entries)
    assert (found.asked, found.failed, found.direct, found.direct_failed) == (2, 1, 1, 0)
    assert (found.settled, found.failed_for, found.twice) == (5, 3, 3)
    assert (found.written, found.refused) == (1, 1)
    assert "1/2" in table([found])
