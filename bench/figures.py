"""Figures: rows of the table, from samples."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table: what was measured, its median, the least and the most, and what it is held against."""

    what: str
    median: float
    least: float
    most: float
    unit: str
    runs: int
    aim: str = ""
    note: str = ""


def row(what: str, samples: Sequence[float], unit: str, *, aim: str = "", note: str = "") -> Row:
    """Make a row from samples."""
    return Row(what, statistics.median(samples), min(samples), max(samples), unit, len(samples), aim, note)


def percentile(samples: Sequence[float], percent: float) -> float:
    """Give the value that ``percent`` of the samples do not exceed: the nearest of them, none in between."""
    return sorted(samples)[max(0, math.ceil(len(samples) * percent / 100) - 1)]


def ratio(what: str, above: Sequence[float], below: Sequence[float], *, aim: str = "", note: str = "") -> Row:
    """Make a row of the ratios of paired samples: the machine's drift hits both of a pair alike."""
    return row(what, [a / b for a, b in zip(above, below, strict=True)], "x", aim=aim, note=note)


def from_dict(found: dict[str, Any]) -> str:
    """Give a row of another measurement as text."""
    return "  ".join(f"{key}={_short(value)}" for key, value in found.items())


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def table(rows: Iterable[Row]) -> str:
    """Give the rows as a Markdown table."""
    lines = ["| what | median | least | most | runs | aim | note |", "|---|---|---|---|---|---|---|"]
    for each in rows:
        numbers = " | ".join(f"{_short(float(v))} {each.unit}" for v in (each.median, each.least, each.most))
        lines.append(f"| {each.what} | {numbers} | {each.runs} | {each.aim} | {each.note} |")
    return "\n".join(lines)


def as_json(rows: Iterable[Row]) -> str:
    """Give the rows as JSON."""
    return json.dumps([asdict(each) for each in rows], indent=2)
