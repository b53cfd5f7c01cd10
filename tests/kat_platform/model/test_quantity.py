"""Quantities: every canonical text reads back, every absurd one is refused."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kat_platform.errors import InvalidInput, InvalidValue
from kat_platform.model.container import ResourceAmounts
from kat_platform.model.quantity import (
    LIMIT,
    IntOrPercent,
    format_cpu,
    format_memory,
    parse_cpu,
    parse_memory,
)


@given(st.integers(1, LIMIT - 1))
def test_every_amount_survives_writing_and_reading(value: int) -> None:
    assert parse_cpu(format_cpu(value)) == value
    assert parse_memory(format_memory(value)) == value


@pytest.mark.parametrize(("text", "millicores"), [("250m", 250), ("0.5", 500), ("2", 2000), ("1m", 1), ("0.001", 1)])
def test_cpu(text: str, millicores: int) -> None:
    assert parse_cpu(text) == millicores


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("64Mi", 64 << 20),
        ("1Gi", 1 << 30),
        ("500M", 500_000_000),
        ("1048576", 1 << 20),
        ("1.5Gi", 3 << 29),
        ("1k", 1000),
    ],
)
def test_memory(text: str, size: int) -> None:
    assert parse_memory(text) == size


@pytest.mark.parametrize(
    "text", ["0", "0m", "-1", "nan", "inf", "0.0001", "1.5m", "1e3", "", " 1", "1 ", "9" * 30, "x", "٣"]
)
def test_impossible_cpu_is_refused(text: str) -> None:
    with pytest.raises(InvalidValue):
        parse_cpu(text)


@pytest.mark.parametrize(
    "text", ["0", "-1Mi", "nan", "1Zi", "1mi", "10E", "8Ei", "9" * 60, "", "Mi", "1 Mi", "1e3", "100m"]
)
def test_impossible_memory_is_refused(text: str) -> None:
    with pytest.raises(InvalidInput):
        parse_memory(text)


def test_a_bare_number_is_cores_on_the_wire_and_millicores_in_python() -> None:
    assert ResourceAmounts.from_json('{"cpu": 2}').cpu == 2000
    assert ResourceAmounts.from_json('{"cpu": 0.25}').cpu == 250
    assert ResourceAmounts(cpu=2).cpu == 2
    assert ResourceAmounts(cpu=250, memory=1 << 20).to_wire() == {"cpu": "250m", "memory": "1Mi"}


@given(st.integers(0, 100), st.integers(0, 10_000))
def test_a_percentage_resolves_to_its_neighbours(percent: int, total: int) -> None:
    share = IntOrPercent.parse(f"{percent}%")
    low, high = share.resolve(total, round_up=False), share.resolve(total, round_up=True)
    assert low == math.floor(percent * total / 100)
    assert 0 <= high - low <= 1
    assert (high == low) == (percent * total % 100 == 0)
    assert IntOrPercent.parse(share.to_wire()) == share


@pytest.mark.parametrize("value", [-1, True, 1.5, "101%", "-1%", "25", "25 %", "", None, "%", "1.5%"])
def test_neither_number_nor_percentage_is_refused(value: object) -> None:
    with pytest.raises(InvalidValue):
        IntOrPercent.parse(value)
