"""What a field means: the answers of ``katcall explain``, taken from the models themselves."""

from __future__ import annotations

import re
import types
from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from ipaddress import IPv4Network
from typing import Annotated, Any, Final, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined, to_jsonable_python

from kat_platform.errors import NotFound
from kat_platform.model.documents import KINDS
from kat_platform.model.quantity import IntOrPercent

_SCALARS: Final = {
    str: "text",
    int: "whole number",
    float: "number",
    bool: "true or false",
    IPv4Network: "IPv4 network",
    IntOrPercent: 'whole number or percentage such as "25%"',
}


@dataclass(frozen=True, slots=True)
class FieldHelp:
    """What there is to say about one field; ``children`` are the fields directly below it."""

    name: str
    path: str
    type: str
    description: str
    required: bool
    default: str | None
    children: tuple[FieldHelp, ...] = ()


def wire_fields(model: type[BaseModel]) -> dict[str, FieldInfo]:
    """Give the fields of a model by their names on the wire."""
    return {info.alias or name: info for name, info in model.model_fields.items()}


def plain(annotation: Any) -> Any:
    """Strip ``Annotated`` and ``| None`` from a type."""
    while True:
        origin = get_origin(annotation)
        if origin is Annotated:
            annotation = get_args(annotation)[0]
        elif origin in (Union, types.UnionType):
            rest = [part for part in get_args(annotation) if part is not type(None)]
            if len(rest) != 1:
                return annotation
            annotation = rest[0]
        else:
            return annotation


def item(annotation: Any) -> Any | None:
    """Give the type of a list's items or of a mapping's values; ``None`` for all else."""
    annotation = plain(annotation)
    arguments = get_args(annotation)
    if get_origin(annotation) is tuple:
        return arguments[0]
    return arguments[1] if _is_mapping(annotation) and len(arguments) == 2 else None


def model_of(annotation: Any) -> type[BaseModel] | None:
    """Give the model a type is, or is a list or mapping of."""
    annotation = plain(annotation)
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    inner = item(annotation)
    return None if inner is None else model_of(inner)


def explain(path: str) -> FieldHelp:
    """Explain ``KIND[.FIELD]...``, such as ``workload.spec.replicas``; raises ``NotFound`` with the nearest name.

    The kind's capitals do not matter; indexes (``[0]``, ``[]``) are ignored.
    """
    first, *rest = re.sub(r"\[[^\]]*\]", "", path).strip(".").split(".")
    kinds = {name.lower(): name for name in KINDS}
    kind = kinds.get(first.lower())
    if kind is None:
        near = get_close_matches(first.lower(), kinds, n=1, cutoff=0.5)
        raise _unknown(first, "a kind", [kinds[name] for name in near], list(KINDS))
    document = KINDS[kind]
    seen = kind
    help_ = FieldHelp(kind, kind, "document", _doc(document), True, None, _children(document, kind))
    model: type[BaseModel] | None = document
    for name in rest:
        fields = wire_fields(model) if model is not None else {}
        if name not in fields:
            folded = {field.lower(): field for field in fields}
            near = get_close_matches(name.lower().replace("_", ""), folded, n=1, cutoff=0.5)
            raise _unknown(name, f"a field of {seen}", [folded[field] for field in near], list(fields))
        seen = f"{seen}.{name}"
        help_ = _help(name, seen, fields[name], deep=True)
        model = model_of(fields[name].annotation)
    return help_


def _unknown(name: str, what: str, near: list[str], valid: list[str]) -> NotFound:
    listed = f"there are: {', '.join(valid)}" if valid else "it has no fields"
    hint = f"did you mean '{near[0]}'?" if near else listed
    return NotFound(f"'{name[:80]}' is not {what}", hint=hint, suggestion=near[0] if near else None)


def _children(model: type[BaseModel], path: str) -> tuple[FieldHelp, ...]:
    return tuple(_help(name, f"{path}.{name}", info, deep=False) for name, info in wire_fields(model).items())


def _help(name: str, path: str, info: FieldInfo, *, deep: bool) -> FieldHelp:
    model = model_of(info.annotation)
    description = info.description or ""
    return FieldHelp(
        name=name,
        path=path,
        type=type_text(info.annotation, info.metadata),
        description=description,
        required=info.is_required(),
        default=_default_text(info),
        children=_children(model, path) if deep and model is not None else (),
    )


def _default_text(info: FieldInfo) -> str | None:
    if info.default_factory is not None:
        return "{}" if info.default_factory is dict else "see the description"
    if info.default is PydanticUndefined or info.default is None:
        return None
    default = info.default
    if isinstance(default, BaseModel):
        return "{}"
    if isinstance(default, IntOrPercent):
        return str(default.to_wire())
    value = to_jsonable_python(default)
    if isinstance(value, bool):
        return "true" if value else "false"
    return '""' if value == "" else str(value)


def type_text(annotation: Any, metadata: list[Any] | None = None) -> str:
    """Say a type in words: ``text``, ``list of ...``, ``Service | Job``, with the bounds of a number."""
    bounds = _bounds([*(metadata or []), *_metadata(annotation)])
    annotation = plain(annotation)
    origin = get_origin(annotation)
    if origin is Literal:
        return " | ".join(str(value) for value in get_args(annotation))
    inner = item(annotation)
    if origin is tuple:
        return f"list of {type_text(inner)}"
    if _is_mapping(annotation):
        return f"mapping of text to {type_text(inner)}"
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation.__name__
    return _SCALARS.get(annotation, "any value") + bounds


def _is_mapping(annotation: Any) -> bool:
    origin = get_origin(annotation)
    return isinstance(origin, type) and issubclass(origin, Mapping)


def _metadata(annotation: Any) -> list[Any]:
    origin = get_origin(annotation)
    if origin in (Union, types.UnionType):
        return [entry for part in get_args(annotation) for entry in _metadata(part)]
    if origin is not Annotated:
        return []
    base, *entries = get_args(annotation)
    return [*entries, *_metadata(base)]


def _bounds(metadata: list[Any]) -> str:
    flat = [inner for entry in metadata for inner in (entry.metadata if isinstance(entry, FieldInfo) else [entry])]
    low = next((entry.ge for entry in flat if hasattr(entry, "ge")), None)
    high = next((entry.le for entry in flat if hasattr(entry, "le")), None)
    if low is None:
        return ""
    return f", {low} or more" if high is None or high >= 2**31 - 1 else f", {low} to {high}"


def _doc(model: type[BaseModel]) -> str:
    return " ".join((model.__doc__ or "").split())
