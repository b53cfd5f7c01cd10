"""Checks: what must never be, looked for in a history. Pure; each gives what it found in words."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from .history import Entry, in_order
from .windows import Window, before, missed, powerless, returning, silenced, struck, unnoticed, windows_of

SETTLE_SECONDS = 60.0
"""After a fault is healed, everything is as it should be within this."""
TWICE_SECONDS = 8.0
"""After a node is connected and started again, what was replaced meanwhile has ended within this."""
MISSED_SECONDS = 6.0
"""A node that is silent for less (``nodeLossTimeoutSeconds`` is 8, heartbeats are 2 apart) loses nothing."""
REMEMBERED_SECONDS = 60.0
"""So long after its return what was replaced on a node may end."""
DIRECT_FAILURES = 0
"""Requests that may fail between healthy nodes, for each fault."""
SILENCE_SECONDS = 6.0
"""After a node fell silent, requests to a virtual IP may still be sent to it for as long as this."""

RETURN_FAILURES = 5
"""Requests to a virtual IP that may fail from when a node comes back until everything is as it should be."""


@dataclass(frozen=True, slots=True)
class Violation:
    """Something that must not be: which rule, when, what."""

    rule: str
    at: float
    text: str
    after: Window | None = None

    def __str__(self) -> str:
        where = f"{self.at - self.after.made:.2f} s after {self.after} was made" if self.after else "before any fault"
        return f"{self.rule}: {self.text} (at {self.at:.2f}, {where})"


Found = Iterable[tuple[float, str]]
Check = Callable[[Sequence[Entry], Sequence[Window]], Found]


def violations(history: Iterable[Entry]) -> list[Violation]:
    """Give everything in a history that must not be, by time."""
    ordered = in_order(history)
    windows = windows_of(ordered)
    found = [
        Violation(rule, at, text, before(windows, at))
        for rule, check in RULES.items()
        for at, text in check(ordered, windows)
    ]
    return sorted(found, key=lambda violation: violation.at)


def lost_writes(history: Sequence[Entry], _: Sequence[Window]) -> Found:
    """Find reads that lack a write acknowledged before they were asked, or show one that nobody had asked for."""
    acknowledged: dict[str, list[tuple[float, int]]] = defaultdict(list)
    asked: dict[str, list[tuple[float, int]]] = defaultdict(list)
    for entry in history:
        if entry["kind"] == "write":
            asked[entry["cell"]].append((entry["began"], entry["value"]))
            if entry["outcome"] == "acknowledged":
                acknowledged[entry["cell"]].append((entry["at"], entry["value"]))
    for entry in history:
        if entry["kind"] != "read" or entry["outcome"] != "ok":
            continue
        cells = entry["cells"]
        for cell, written in acknowledged.items():
            due = max((value for at, value in written if at < entry["began"]), default=0)
            if cells.get(cell, 0) < due:
                told = f"{cell} is {cells.get(cell, 'not there')} on {entry['node']}, but {due} was acknowledged"
                yield entry["at"], told
        for cell, value in cells.items():
            if value > max((v for began, v in asked[cell] if began <= entry["at"]), default=0):
                yield entry["at"], f"{cell} is {value} on {entry['node']}, which nobody had written"


def not_settled(_: Sequence[Entry], windows: Sequence[Window]) -> Found:
    """Find faults after which it took too long until everything was as it should be."""
    for window in windows:
        if window.settled - window.healed > SETTLE_SECONDS:
            yield window.healed, f"not as it should be within {SETTLE_SECONDS:g} s after {window} was healed"


def too_many(history: Sequence[Entry], windows: Sequence[Window]) -> Found:
    """Find more of a workload than wanted, on nodes that the leader can speak with; of a pinned one, anywhere."""
    wanted: dict[str, dict[str, Any]] = {}
    told: set[str] = set()
    for entry in history:
        if entry["kind"] == "wanted":
            wanted = entry["workloads"]
        if entry["kind"] != "runs":
            continue
        already, told = told, set()
        out = silenced(windows, entry["at"], entry["at"], after=TWICE_SECONDS)
        everywhere, within = Counter[str](), Counter[str]()
        for node, workload, *_ in entry["running"]:
            everywhere[workload] += 1
            within[workload] += node not in out
        for workload, spec in wanted.items():
            found = everywhere[workload] if spec["pinned"] else within[workload]
            if found > spec["replicas"]:
                told.add(workload)
                if workload not in already:  # once for as long as it lasts
                    yield entry["at"], f"{found} of {workload} run, wanted are {spec['replicas']}"


def restarted(history: Sequence[Entry], windows: Sequence[Window]) -> Found:
    """Find containers that were started anew without a power cut, or ended on a node that nobody had missed."""
    known: dict[str, tuple[float, str, int, int]] = {}
    last: set[str] = set()
    for entry in history:
        if entry["kind"] != "runs":
            continue
        now = {row[2]: (entry["at"], row[0], row[3], row[4]) for row in entry["running"]}
        for instance in last - now.keys():
            seen, node, _, _ = known[instance]
            if node not in missed(windows, seen, entry["at"], at_least=MISSED_SECONDS, after=REMEMBERED_SECONDS):
                yield entry["at"], f"{instance} ended on {node}, which nobody had reason to miss"
        for instance in now.keys() & known.keys():
            seen, node, pid, start = known[instance]
            if now[instance][1:] != (node, pid, start) and node not in powerless(windows, seen, entry["at"]):
                yield entry["at"], f"{instance} was started anew on {node}, which had not lost its power"
        known |= now
        last = set(now)


def failed_requests(history: Sequence[Entry], windows: Sequence[Window]) -> Found:
    """Find failed requests of healthy nodes: to an instance on another healthy one, or to a virtual IP too late."""
    direct: dict[int, list[Entry]] = defaultdict(list)
    back: dict[int, list[Entry]] = defaultdict(list)
    spans = unnoticed(windows, SILENCE_SECONDS)
    for entry in history:
        if entry["kind"] != "request" or entry["outcome"] in ("ok", "asker-gone", "target-gone"):
            continue
        sick = struck(windows, entry["began"], entry["at"])
        if entry["node"] in sick or (entry["target"] and entry["target"][0] in sick):
            continue
        last = before(windows, entry["at"])
        if entry["target"]:
            direct[last.number if last else 0].append(entry)
        elif any(first <= entry["at"] and entry["began"] <= last for first, last in spans):
            continue
        elif (window := returning(windows, entry["began"], entry["at"])) is not None:
            back[window.number].append(entry)
        else:
            yield entry["at"], f"a request from {entry['node']} to the virtual IP failed: {entry['outcome']}"
    for failures in direct.values():
        if len(failures) > DIRECT_FAILURES:
            first = failures[0]
            where = f"from {first['node']} to {first['target'][1]} on {first['target'][0]}"
            told = f"{len(failures)} requests between healthy nodes failed, the first {where}: {first['outcome']}"
            yield first["at"], told
    for failures in back.values():
        if len(failures) > RETURN_FAILURES:
            told = f"{len(failures)} requests to the virtual IP failed while a node came back, the first"
            yield failures[0]["at"], f"{told} from {failures[0]['node']}: {failures[0]['outcome']}"


def two_leaders(history: Sequence[Entry], _: Sequence[Window]) -> Found:
    """Find terms whose changes were accepted in between each other's: the fence failed."""
    spans: dict[int, tuple[int, int]] = {}
    nodes: dict[int, str] = {}
    at = 0.0
    for entry in history:
        if entry["kind"] == "change":
            term, revision, at = entry["term"], entry["revision"], entry["at"]
            first, last = spans.get(term, (revision, revision))
            spans[term], nodes[term] = (min(first, revision), max(last, revision)), entry["node"]
    ordered = sorted(spans.items(), key=lambda item: item[1])
    for (one, (_, end)), (other, (begin, _)) in pairwise(ordered):
        if begin <= end:
            told = f"term {one} of {nodes[one]} changed something until revision {end}, term {other} of {nodes[other]}"
            yield at, f"{told} from {begin} on"


RULES: dict[str, Check] = {
    "acknowledged write lost": lost_writes,
    "not settled": not_settled,
    "runs twice": too_many,
    "container touched": restarted,
    "request failed": failed_requests,
    "two leaders": two_leaders,
}
