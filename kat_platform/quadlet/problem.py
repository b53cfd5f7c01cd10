"""What is wrong with a Quadlet, and where."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Literal, NamedTuple

from kat_platform.errors import InvalidInput
from kat_platform.quadlet import limits

Severity = Literal["error", "warning"]


class Location(NamedTuple):
    """A place in a file; line and column count from 1, in characters."""

    file: str
    line: int
    column: int


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong: where, at which field, what, and what was meant perhaps."""

    file: str
    line: int
    column: int
    path: str
    """The field, such as ``spec.container.env[0].name``; empty for the whole document."""
    message: str
    suggestion: str | None = None
    severity: Severity = "error"

    def __str__(self) -> str:
        meant = f"; did you mean '{self.suggestion}'?" if self.suggestion else ""
        mark = "warning: " if self.severity == "warning" else ""
        return f"{self.file}:{self.line}:{self.column}: {mark}{self.message}{meant}"


class QuadletInvalid(InvalidInput):
    """The files do not make a valid Quadlet; ``problems`` has all that was found, the message one line for each."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = tuple(
            sorted(set(problems), key=lambda found: (found.file, found.line, found.column, str(found)))
        )
        shown = self.problems[: limits.MAX_PROBLEMS]
        lines = [str(problem) for problem in shown]
        if len(self.problems) > len(shown):
            lines.append(f"(these are the first {len(shown)} problems; there are more)")
        super().__init__("\n".join(lines), problems=[asdict(problem) for problem in shown])


def path_text(path: Iterable[str | int]) -> str:
    """Write a field's path: ``spec.volumes[0].name``."""
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text
