"""Finds the name that was meant: the nearest valid key or value, or the place where a key belongs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from itertools import islice
from typing import Any, Literal, get_args, get_origin

from pydantic import BaseModel

from kat_platform.model.explain import item, model_of, plain, wire_fields
from kat_platform.quadlet import limits

_CLOSE_ENOUGH = 0.5
_DEEPEST = 8


def nearest(name: str, valid: Iterable[str]) -> str | None:
    """Give the valid name nearest to ``name``, ignoring capitals, ``-`` and ``_``; ``None`` where none is near."""
    folded = {_fold(candidate): candidate for candidate in islice(valid, limits.MAX_CANDIDATES)}
    found = get_close_matches(_fold(name[:80]), folded, n=1, cutoff=_CLOSE_ENOUGH)
    return folded[found[0]] if found else None


def _fold(name: str) -> str:
    return name.lower().replace("_", "").replace("-", "")


def annotation_at(model: type[BaseModel], path: Sequence[str | int]) -> Any | None:
    """Give the type of the field at a path; ``None`` where there is none."""
    annotation: Any = model
    for part in path:
        inner = item(annotation)
        if inner is not None:
            annotation = inner
            continue
        current = plain(annotation)
        if not (isinstance(current, type) and issubclass(current, BaseModel) and isinstance(part, str)):
            return None
        info = wire_fields(current).get(part)
        if info is None:
            return None
        annotation = info.annotation
    return annotation


def valid_keys(model: type[BaseModel], path: Sequence[str | int]) -> list[str]:
    """Give the keys that are valid in the mapping at a path; none where any key is."""
    current = plain(annotation_at(model, path))
    return list(wire_fields(current)) if isinstance(current, type) and issubclass(current, BaseModel) else []


def valid_values(model: type[BaseModel], path: Sequence[str | int]) -> list[str]:
    """Give the values of an enumeration at a path; none for all else."""
    annotation = plain(annotation_at(model, path))
    return [str(value) for value in get_args(annotation)] if get_origin(annotation) is Literal else []


def home_of(key: str, model: type[BaseModel], at: tuple[str, ...] = ()) -> str | None:
    """Give the mapping where ``key`` is valid (``spec.container``), the least deep first."""
    level: list[tuple[tuple[str, ...], type[BaseModel]]] = [(at, model)]
    for _ in range(_DEEPEST):
        for path, current in level:
            if key in wire_fields(current):
                return ".".join(path)
        level = [
            ((*path, name), child)
            for path, current in level
            for name, info in wire_fields(current).items()
            if (child := model_of(info.annotation)) is not None
        ]
    return None
