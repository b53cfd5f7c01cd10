"""Figures: what a history measured, fault by fault, as a table for people. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from .history import Entry, in_order
from .windows import Window, before, struck, windows_of


@dataclass(frozen=True, slots=True)
class Figures:
    """What one fault cost. Times in seconds."""

    window: Window
    settled: float
    """From the healing until everything was as it should be."""
    twice: float
    """From the healing until nothing ran more often than wanted."""
    asked: int
    failed: int
    """Requests of healthy nodes to a virtual IP."""
    failed_for: float
    """From the making to the last of them that failed."""
    direct: int
    direct_failed: int
    refused: int
    """Writes that were not acknowledged."""
    written: int


def figures(history: Iterable[Entry]) -> list[Figures]:
    """Give the figures of every fault in a history."""
    ordered = in_order(history)
    windows = windows_of(ordered)
    wanted = next((entry["workloads"] for entry in ordered if entry["kind"] == "wanted"), {})
    return [
        _of(window, [e for e in ordered if before(windows, e["at"]) is window], windows, wanted) for window in windows
    ]


def _of(window: Window, entries: list[Entry], windows: Sequence[Window], wanted: dict[str, dict[str, int]]) -> Figures:
    healthy = []
    for entry in entries:
        if entry["kind"] == "request" and not entry["outcome"].endswith("-gone"):
            sick = struck(windows, entry["began"], entry["at"])
            if entry["node"] not in sick and not (entry["target"] and entry["target"][0] in sick):
                healthy.append(entry)
    virtual = [entry for entry in healthy if not entry["target"]]
    direct = [entry for entry in healthy if entry["target"]]
    failed = [entry for entry in virtual if entry["outcome"] != "ok"]
    writes = Counter(entry["outcome"] for entry in entries if entry["kind"] == "write")
    return Figures(
        window,
        settled=window.settled - window.healed,
        twice=max((e["at"] - window.healed for e in entries if _excess(e, wanted)), default=0.0),
        asked=len(virtual),
        failed=len(failed),
        failed_for=max((entry["at"] - window.made for entry in failed), default=0.0),
        direct=len(direct),
        direct_failed=sum(entry["outcome"] != "ok" for entry in direct),
        refused=writes["unknown"],
        written=writes["acknowledged"],
    )


def _excess(entry: Entry, wanted: dict[str, dict[str, int]]) -> bool:
    if entry["kind"] != "runs":
        return False
    count = Counter(row[1] for row in entry["running"])
    return any(count[name] > spec["replicas"] for name, spec in wanted.items())


def table(found: Sequence[Figures]) -> str:
    """Give the figures as lines of text."""
    head = (
        f"{'fault':44} {'held':>6} {'settled':>8} {'twice':>6} {'virtual':>10} {'until':>6} {'direct':>9} {'writes':>9}"
    )
    rows = [head]
    for f in found:
        held = f.window.healed - f.window.made
        rows.append(
            f"{str(f.window)[:44]:44} {held:6.1f} {f.settled:8.1f} {max(f.twice, 0):6.1f} "
            f"{f'{f.failed}/{f.asked}':>10} {f.failed_for:6.1f} {f'{f.direct_failed}/{f.direct}':>9} "
            f"{f'{f.refused}/{f.written + f.refused}':>9}"
        )
    return "\n".join(rows)
