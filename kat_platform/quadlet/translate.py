"""Says in plain words, and at its place, what a model has found wrong."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, Final

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from kat_platform.errors import InvalidValue
from kat_platform.model.faults import FAULTS, Fault
from kat_platform.quadlet.locate import find, place, place_of_key
from kat_platform.quadlet.problem import Location, Problem, path_text
from kat_platform.quadlet.suggest import home_of, nearest, valid_keys, valid_values
from kat_platform.quadlet.tree import Node

_NEEDS: Final = {
    "string_type": "text",
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "int_parsing": "a whole number",
    "float_type": "a number",
    "finite_number": "a finite number",
    "bool_type": "true or false",
    "model_type": "a mapping",
    "model_attributes_type": "a mapping",
    "dict_type": "a mapping",
    "mapping_type": "a mapping",
    "tuple_type": "a list",
}
_BOUNDS: Final = {
    "greater_than_equal": ("ge", "must be at least {}"),
    "greater_than": ("gt", "must be above {}"),
    "less_than_equal": ("le", "must be at most {}"),
    "less_than": ("lt", "must be below {}"),
}
_IGNORED: Final = frozenset({"default_factory_not_called"})
"""Only says that another error, which is reported too, kept a default from being made."""

FieldPath = tuple[str | int, ...]


class Translator:
    """Translates the errors of one document; values are not shown for a kind that is secret."""

    def __init__(self, root: Node, model: type[BaseModel], *, secret: bool) -> None:
        self._root = root
        self._model = model
        self._secret = secret

    def problems(self, error: ValidationError) -> Iterator[Problem]:
        """Give a problem for each thing the error reports."""
        for details in error.errors(include_url=False):
            if details["type"] in _IGNORED:
                continue
            path: FieldPath = tuple(details["loc"])
            if details["type"] == FAULTS:
                for fault in details["ctx"][FAULTS]:
                    yield self._fault(path, fault)
            elif details["type"] == "extra_forbidden":
                yield self._unknown_key(path)
            elif details["type"] == "missing":
                yield self._missing(path)
            elif len(path) >= 2 and path[-1] == "[key]":
                yield self._bad_key(path[:-1], details)
            else:
                yield self._bad_value(path, details)

    def _problem(self, where: Location, path: FieldPath, message: str, suggestion: str | None = None) -> Problem:
        return Problem(*where, path_text(path), message, suggestion)

    def _fault(self, path: FieldPath, fault: Fault) -> Problem:
        full = (*path, *fault.at)
        node = find(self._root, full)
        value = node.value if node is not None and isinstance(node.value, str) else ""
        suggestion = nearest(value, fault.candidates) if value and fault.candidates else None
        return self._problem(place(self._root, full), full, fault.message, suggestion)

    def _unknown_key(self, path: FieldPath) -> Problem:
        key = str(path[-1])
        valid = valid_keys(self._model, path[:-1])
        within = f"'{path_text(path[:-1])}'" if len(path) > 1 else "a document"
        message = f"unknown key '{key[:80]}' in {within}"
        suggestion = nearest(key, valid)
        home = home_of(key, self._model)
        if home is not None and (suggestion is None or suggestion.lower() != key.lower()):
            message, suggestion = f"{message}: it belongs in '{home}'" if home else message, None
        elif suggestion is None:
            message += f"; valid keys are {', '.join(valid)}" if valid else "; it has no keys"
        return self._problem(place_of_key(self._root, path), path, message, suggestion)

    def _missing(self, path: FieldPath) -> Problem:
        within = f" in '{path_text(path[:-1])}'" if len(path) > 1 else ""
        return self._problem(place(self._root, path[:-1]), path, f"the key '{path[-1]}' is missing{within}")

    def _bad_key(self, path: FieldPath, details: ErrorDetails) -> Problem:
        message, suggestion = _value_error(details)
        return self._problem(place_of_key(self._root, path), path, message, suggestion)

    def _bad_value(self, path: FieldPath, details: ErrorDetails) -> Problem:
        node = find(self._root, path)
        name = path_text(path) or "the document"
        kind = details["type"]
        suggestion: str | None = None
        if kind in _NEEDS:
            message = self._wrong_type(name, _NEEDS[kind], node)
        elif kind == "literal_error":
            values = valid_values(self._model, path)
            written = node.raw if node is not None and node.kind == "scalar" else ""
            message = f"'{name}' is {self._shown(node)}, and must be one of {', '.join(values)}"
            suggestion = nearest(written, values) if written else None
        elif kind in _BOUNDS:
            key, text = _BOUNDS[kind]
            message = f"'{name}' {text.format(details['ctx'][key])}, and is {self._shown(node)}"
        elif kind == "too_short" or kind == "string_too_short":
            message = f"'{name}' must not be empty"
        else:
            text, suggestion = _value_error(details)
            message = f"'{name}': {text}"
        return self._problem(place(self._root, path), path, message, suggestion)

    def _wrong_type(self, name: str, needs: str, node: Node | None) -> str:
        message = f"'{name}' needs {needs}, and is {self._shown(node)}"
        if node is None or node.kind != "scalar":
            return message
        if needs == "text" and node.value is not None:
            return f"{message}: write it in quotes" + ("" if self._secret else f', "{node.raw}"')
        if node.quoted and re.fullmatch(r"-?[0-9]+(\.[0-9]+)?|true|false", node.raw):
            return f"{message}: remove the quotes"
        return message

    def _shown(self, node: Node | None) -> str:
        if node is None:
            return "missing"
        if node.kind != "scalar":
            return f"a {node.kind}"
        if node.value is None:
            return "empty"
        what = (
            "text" if isinstance(node.value, str) else "true or false" if isinstance(node.value, bool) else "a number"
        )
        if self._secret:
            return what
        raw = node.raw if len(node.raw) <= 60 else f"{node.raw[:60]}..."
        return (
            f"the {what} '{raw}'"
            if what == "text"
            else f"{raw} ({what})"
            if what != "a number"
            else f"the number {raw}"
        )


def _value_error(details: ErrorDetails) -> tuple[str, str | None]:
    cause: Any = details.get("ctx", {}).get("error")
    if isinstance(cause, InvalidValue):
        meant = re.fullmatch(r"did you mean '(.*)'\?", cause.hint or "", re.DOTALL)
        return (cause.message, meant[1]) if meant else (str(cause), None)
    return details["msg"].removeprefix("Value error, "), None
