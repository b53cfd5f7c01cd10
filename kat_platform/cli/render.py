"""Render: what ``katcall`` prints. Tables for people, JSON and YAML for programs; colour on a terminal only."""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
import time
from collections.abc import Iterable, Sequence
from typing import Any, Final, TextIO

from kat_platform.errors import KatError, UsageError

FORMATS: Final = ("table", "wide", "json", "yaml", "name")
_COLOURS: Final = {"green": "32", "yellow": "33", "red": "31", "grey": "90", "bold": "1"}
_ANSI: Final = re.compile(r"\x1b\[[0-9;]*m")
_STATES: Final = {
    "Running": "green",
    "Ready": "green",
    "Complete": "green",
    "Succeeded": "green",
    "chosen": "green",
    "Pending": "yellow",
    "Assigned": "yellow",
    "Preparing": "yellow",
    "Progressing": "yellow",
    "Stopping": "yellow",
    "Paused": "yellow",
    "Warning": "yellow",
    "Failed": "red",
    "Lost": "red",
    "NotReady": "red",
    "refused": "red",
}


def colourful(stream: TextIO) -> bool:
    """Tell whether to use colour: on a terminal, unless ``NO_COLOR`` is set or the terminal is dumb."""
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def paint(text: str, colour: str, stream: TextIO | None = None) -> str:
    """Colour a text, where the stream (standard output) can show it."""
    return f"\x1b[{_COLOURS[colour]}m{text}\x1b[0m" if colourful(stream or sys.stdout) else text


def state(text: str) -> str:
    """Colour the word for a state by how good it is."""
    colour = _STATES.get(text)
    return paint(text, colour) if colour else text


def clean(text: str) -> str:
    """Take control characters out of what a stranger wrote, so that it cannot steer the terminal."""
    return "".join(c if c.isprintable() else " " if c in "\n\t\r" else "\ufffd" for c in text)


def table(header: Sequence[str], rows: Iterable[Sequence[str]], *, heading: bool = True) -> str:
    """Lay out rows in columns; on a terminal the last column is cut to its width."""
    cells = [list(row) for row in rows]
    everything = [list(header), *cells] if heading else cells
    if not everything:
        return ""
    widths = [max(_width(row[n]) for row in everything) for n in range(len(header))]
    room = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
    lines: list[str] = []
    for row in everything:
        padded = [cell + " " * (width - _width(cell)) for cell, width in zip(row[:-1], widths[:-1], strict=True)]
        start = "  ".join(padded)
        last = row[-1]
        left = None if room is None else room - _width(start) - 2
        if left is not None and left >= 8 and _width(last) > left and not _ANSI.search(last):
            last = last[: left - 1] + "…"
        lines.append((f"{start}  {last}" if padded else last).rstrip())
    return "\n".join(lines)


def _width(text: str) -> int:
    return len(_ANSI.sub("", text))


def as_json(data: Any) -> str:
    """Give JSON for people and programs."""
    return json.dumps(data, indent=2, ensure_ascii=False)


def as_yaml(data: Any) -> str:
    """Give YAML."""
    import yaml  # only who asks for it waits for it

    return str(yaml.safe_dump(data, sort_keys=False, allow_unicode=True)).rstrip("\n")


def check_format(output: str) -> str:
    """Check a value of ``-o`` before anything is asked of the server; raises ``UsageError``."""
    if output.startswith("jsonpath="):
        from kat_platform.cli.jsonpath import compile_template

        compile_template(output.removeprefix("jsonpath="))
    elif output not in FORMATS:
        raise UsageError(f"'{output}' is no output format", hint=f"there are: {', '.join(FORMATS)}, jsonpath=TEMPLATE")
    return output


def structured(output: str, data: Any) -> str | None:
    """Give ``data`` in a format for programs; ``None`` for the others, which need to know what it is."""
    if output == "json":
        return as_json(data)
    if output == "yaml":
        return as_yaml(data)
    if output.startswith("jsonpath="):
        from kat_platform.cli.jsonpath import evaluate

        return evaluate(output.removeprefix("jsonpath="), data)
    return None


def age(at: float | None, now: float | None = None) -> str:
    """Say how long ago a moment was: ``5s``, ``3m``, ``7h``, ``12d``."""
    if not at:
        return "-"
    return span((time.time() if now is None else now) - at)


def span(seconds: float) -> str:
    """Say a length of time in one or two units."""
    left = max(0, int(seconds))
    if left < 120:
        return f"{left}s"
    if left < 600:
        return f"{left // 60}m{left % 60}s"
    if left < 7200:
        return f"{left // 60}m"
    return f"{left // 3600}h" if left < 172800 else f"{left // 86400}d"


def size(count: int) -> str:
    """Say a number of bytes."""
    amount = float(count)
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if amount < 1024 or unit == "TiB":
            return f"{amount:.0f} {unit}" if amount >= 10 or unit == "B" else f"{amount:.1f} {unit}"
        amount /= 1024
    return ""


def taint(taint: dict[str, str]) -> str:
    """Write a node's taint as ``node taint`` reads it."""
    return clean(f"{taint['key']}{'=' if taint['value'] else ''}{taint['value']}:{taint['effect']}")


def problem_line(problem: dict[str, Any]) -> str:
    """Give one problem of a document: ``file:line:column: message; did you mean 'x'?``."""
    where = f"{problem['file']}:{problem['line']}:{problem['column']}: " if problem.get("file") else ""
    if not where and problem.get("path"):
        where = f"{problem['path']}: "
    meant = f"; did you mean '{problem['suggestion']}'?" if problem.get("suggestion") else ""
    mark = "warning: " if problem.get("severity") == "warning" else ""
    return clean(f"{where}{mark}{problem.get('message', '')}{meant}")


def error_text(error: KatError) -> str:
    """Give an error as ``katcall`` prints it on standard error."""
    problems = error.details.get("problems")
    lines: list[str] = []
    if problems:
        lines += [problem_line(problem) for problem in problems]
    else:
        message = "\n".join(clean(line) for line in error.message.splitlines())
        lines.append(f"{paint('error:', 'red', sys.stderr)} {message}")
    if error.hint and not problems:
        lines.append(f"{paint('hint:', 'yellow', sys.stderr)} {clean(error.hint)}")
    return "\n".join(lines)
