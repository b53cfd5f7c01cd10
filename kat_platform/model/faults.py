"""How a model reports several broken rules at once, each with its own place inside the model."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final

from pydantic_core import PydanticCustomError

FAULTS: Final = "faults"
"""The ``type`` of the pydantic error that carries faults (in its ``ctx``, under the same name)."""

FieldPath = tuple[str | int, ...]


@dataclass(frozen=True, slots=True)
class Fault:
    """One broken rule: where (wire names, relative to the model that checked it), what, and what was meant perhaps."""

    at: FieldPath
    message: str
    candidates: Sequence[str] = field(default=())
    """Names that would have been valid here: the nearest is suggested."""


def refuse(faults: Iterable[Fault]) -> None:
    """Raise one pydantic error carrying all ``faults``; with none, do nothing. For use in model validators."""
    found = tuple(faults)
    if found:
        text = "; ".join(fault.message for fault in found)
        raise PydanticCustomError(FAULTS, "{text}", {"text": text, FAULTS: found})


def exactly_one(at: FieldPath, given: dict[str, bool]) -> list[Fault]:
    """Check that exactly one of the named keys is given."""
    chosen = [name for name, present in given.items() if present]
    if len(chosen) == 1:
        return []
    wanted = f"exactly one of {', '.join(given)} must be given"
    if chosen:
        return [Fault((*at, chosen[1]), f"{wanted}, not {' and '.join(chosen)}")]
    return [Fault(at, f"{wanted}, and none is")]


def repeated(at: FieldPath, key: str | None, values: Sequence[object], what: str) -> list[Fault]:
    """Check that no value of a list occurs twice; the fault lies at the later one (at its ``key``, where given)."""
    seen: set[object] = set()
    faults: list[Fault] = []
    for index, value in enumerate(values):
        if value is None:
            continue
        if value in seen:
            place: FieldPath = (*at, index) if key is None else (*at, index, key)
            shown = "/".join(str(part) for part in value) if isinstance(value, tuple) else value
            faults.append(Fault(place, f"{what} '{shown}' is given twice"))
        seen.add(value)
    return faults
