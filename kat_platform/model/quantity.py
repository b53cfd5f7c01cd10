"""Quantities: CPU in millicores and memory in bytes, read from and written as text; counts or percentages.

In Python a CPU is an ``int`` of millicores and a memory an ``int`` of bytes. On the wire both are text in one
canonical form; a bare number is read as cores, or bytes. (In Python mode, where a model is built from keyword
arguments, a bare ``int`` is millicores.) Suffixes as in Kubernetes quantities.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from decimal import Decimal
from typing import Annotated, Any, Final

from pydantic import PlainSerializer, PlainValidator, ValidationInfo, WithJsonSchema

from kat_platform.errors import InvalidValue

LIMIT: Final = 2**63
"""Millicores and bytes lie below this."""

_CPU: Final = re.compile(r"(?P<number>[0-9]+(\.[0-9]+)?)(?P<milli>m?)")
_MEMORY: Final = re.compile(r"(?P<number>[0-9]+(\.[0-9]+)?)(?P<suffix>[A-Za-z]*)")
_DIGITS: Final = 40
_BINARY: Final = {f"{letter}i": 1024**power for power, letter in enumerate("KMGTPE", 1)}
_DECIMAL: Final = {letter: 1000**power for power, letter in enumerate("KMGTPE", 1)}
_SUFFIXES: Final = {"": 1, "k": 1000, **_BINARY, **_DECIMAL}


def parse_cpu(text: str) -> int:
    """Read a CPU quantity (``250m``, ``0.5``, ``2``) as millicores; raises ``InvalidValue``."""
    match = _CPU.fullmatch(text) if len(text) <= _DIGITS else None
    if match is None:
        raise InvalidValue(f"'{text[:_DIGITS]}' is not a CPU quantity: write it like 250m, 0.5 or 2")
    millicores = Decimal(match["number"]) * (1 if match["milli"] else 1000)
    if millicores < 1:
        raise InvalidValue(f"CPU '{text}' is too small: the least is 1m")
    if millicores != int(millicores):
        raise InvalidValue(f"CPU '{text}' is finer than 1m")
    return _below_limit(int(millicores), f"CPU '{text}'")


def parse_memory(text: str) -> int:
    """Read a memory quantity (``64Mi``, ``1Gi``, ``500M``, plain bytes) as bytes; raises ``InvalidValue``.

    A fraction of a byte is rounded up.
    """
    match = _MEMORY.fullmatch(text) if len(text) <= _DIGITS else None
    if match is None:
        raise InvalidValue(f"'{text[:_DIGITS]}' is not a memory quantity: write it like 64Mi, 1Gi, 500M or 1048576")
    factor = _SUFFIXES.get(match["suffix"])
    if factor is None:
        raise InvalidValue(f"memory '{text}' has an unknown unit: use one of K M G T P E, Ki Mi Gi Ti Pi Ei, or none")
    size = math.ceil(Decimal(match["number"]) * factor)
    if size < 1:
        raise InvalidValue(f"memory '{text}' is nothing: leave the field out to set none")
    return _below_limit(size, f"memory '{text}'")


def _below_limit(value: int, what: str) -> int:
    if value >= LIMIT:
        raise InvalidValue(f"{what} is absurdly large")
    return value


def format_cpu(millicores: int) -> str:
    """Write millicores in the canonical form: whole cores plain (``2``), all else in ``m`` (``250m``)."""
    return f"{millicores}m" if millicores % 1000 else str(millicores // 1000)


def format_memory(size: int) -> str:
    """Write bytes in the canonical form: the largest unit that divides them, binary units first (``64Mi``)."""
    for units in (_BINARY, _DECIMAL):
        for suffix, factor in reversed(units.items()):
            if size and size % factor == 0:
                return f"{size // factor}{suffix}"
    return str(size)


def _number_as_text(value: Any, what: str) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise InvalidValue(f"{what} is a number or a text such as {'250m' if what == 'a CPU quantity' else '64Mi'}")
    if isinstance(value, float):
        if not math.isfinite(value):
            raise InvalidValue(f"{value} is not {what}")
        return format(Decimal(repr(value)), "f")
    return str(value)


def _read_cpu(value: Any, info: ValidationInfo) -> int:
    if info.mode == "python" and isinstance(value, int) and not isinstance(value, bool):
        value = f"{value}m"
    return parse_cpu(_number_as_text(value, "a CPU quantity"))


def _read_memory(value: Any) -> int:
    return parse_memory(_number_as_text(value, "a memory quantity"))


@dataclass(frozen=True, slots=True)
class IntOrPercent:
    """A number of instances, either as it is or as a percentage of some total (0 to 100)."""

    value: int
    percent: bool = False

    @classmethod
    def parse(cls, value: Any) -> IntOrPercent:
        """Read ``3`` or ``"25%"``; raises ``InvalidValue``."""
        if isinstance(value, IntOrPercent):
            return value
        if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**31:
            return cls(value)
        match = re.fullmatch(r"([0-9]{1,3})%", value) if isinstance(value, str) else None
        if match is None or int(match[1]) > 100:
            raise InvalidValue(f'{str(value)[:_DIGITS]!r} is neither a whole number nor a percentage such as "25%"')
        return cls(int(match[1]), percent=True)

    def resolve(self, total: int, *, round_up: bool) -> int:
        """Give the number of instances this is, out of ``total``."""
        if not self.percent:
            return self.value
        share = self.value * total
        return -(-share // 100) if round_up else share // 100

    def to_wire(self) -> int | str:
        """Give the form :meth:`parse` reads."""
        return f"{self.value}%" if self.percent else self.value


_QUANTITY_SCHEMA: Final = {"anyOf": [{"type": "string"}, {"type": "number", "exclusiveMinimum": 0}]}
_COUNT_SCHEMA: Final = {"anyOf": [{"type": "integer", "minimum": 0}, {"type": "string", "pattern": "^[0-9]{1,3}%$"}]}

Cpu = Annotated[
    int,
    PlainValidator(_read_cpu),
    PlainSerializer(format_cpu, return_type=str, when_used="json"),
    WithJsonSchema({**_QUANTITY_SCHEMA, "examples": ["250m", 2]}),
]
Memory = Annotated[
    int,
    PlainValidator(_read_memory),
    PlainSerializer(format_memory, return_type=str, when_used="json"),
    WithJsonSchema({**_QUANTITY_SCHEMA, "examples": ["64Mi", "1Gi"]}),
]
CountOrPercent = Annotated[
    IntOrPercent,
    PlainValidator(IntOrPercent.parse),
    PlainSerializer(IntOrPercent.to_wire, when_used="json"),
    WithJsonSchema({**_COUNT_SCHEMA, "examples": [1, "25%"]}),
]
