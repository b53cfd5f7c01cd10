"""YAML: what is read, what is refused, and where each thing stands."""

from __future__ import annotations

import time
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from kat_platform.quadlet import limits, tree
from kat_platform.quadlet.problem import Problem
from kat_platform.quadlet.tree import Refused, read_documents

scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**63), 2**63),
    st.floats(allow_nan=False),
    st.text(st.characters(codec="utf-8", exclude_characters="\0")),
)
values = st.recursive(
    scalars, lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(st.text("abcxyz"), inner, max_size=4))
)


@pytest.fixture(params=["C", "Python"])
def loader(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both of PyYAML's parsers: a host may have only the second."""
    if request.param == "Python":
        monkeypatch.setattr(tree, "_Loader", yaml.SafeLoader)


def read(text: str) -> tuple[list[Any], list[Problem]]:
    problems: list[Problem] = []
    return [root.to_data() for root in read_documents(text, "f.kat", problems)], problems


def refusal(text: str) -> Problem:
    with pytest.raises(Refused) as caught:
        read(text)
    return caught.value.problem


@given(values)
def test_what_yaml_writes_is_read_back(data: Any) -> None:
    text = yaml.safe_dump({"data": data})
    assert read(text) == ([{"data": data}], [])


@settings(max_examples=500)
@given(st.text(st.sampled_from("0123456789.eExXobB_+-:~yYnN"), max_size=7))
def test_text_that_looks_like_a_number_stays_text(text: str) -> None:
    assert read(yaml.safe_dump({"a": text})) == ([{"a": text}], [])


@pytest.mark.usefixtures("loader")
@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("yes", True),
        ("off", False),
        ("~", None),
        ("", None),
        ("12", 12),
        ("-3", -3),
        ("1.5", 1.5),
        ("1.0e+3", 1000.0),
        ("1e3", "1e3"),
        ("12345e7", "12345e7"),
        ("08", "08"),
        ("'12'", "12"),
        ('"yes"', "yes"),
        ("!!str 12", "12"),
        ("! 12", "12"),
        ("10:30", "10:30"),
        ("2024-01-02", "2024-01-02"),
        ("1_000", "1_000"),
        ("|\n  yes\n", "yes\n"),
        ("9" * 60, "9" * 60),
    ],
)
def test_scalars(text: str, value: object) -> None:
    assert read(f"a: {text}") == ([{"a": value}], [])


@pytest.mark.usefixtures("loader")
@pytest.mark.parametrize(
    ("text", "line", "column", "words"),
    [
        ("a: 1\nb:\n\tc: 1\n", 3, 1, "tab"),
        ("a: [1, 2\nb: 3\n", 2, 2, "malformed"),
        ("a: b: c\n", 1, 5, "malformed"),
        ("a: \x01\n", 1, 4, "character"),
        ("a: !!python/object/apply:os.system [id]\n", 1, 4, "tag"),
        ("a: !!binary aGk=\n", 1, 4, "tag"),
        ('a: "b\\0c"\n', 1, 4, "NUL"),
        ("a: *nowhere\n", 1, 4, "alias"),
        ("a: &x [1, *x]\n", 1, 11, "own anchor"),
        ("? [a]\n: 1\n", 1, 3, "cannot be a key"),
        ("a: " + "[" * 100, 1, 67, "nested deeper"),
    ],
)
def test_what_cannot_be_read_on(text: str, line: int, column: int, words: str) -> None:
    problem = refusal(text)
    assert words in problem.message
    if words != "malformed":  # the two parsers point at different ends of the same mistake
        assert (problem.line, problem.column) == (line, column)
    assert problem.line in (line, line - 1)


@pytest.mark.usefixtures("loader")
@pytest.mark.parametrize(
    ("text", "line", "column", "words"),
    [
        ("a: 1\nb: {c: 1, c: 2}\n", 2, 11, "given twice"),
        ("1: x\n", 1, 1, "in quotes"),
        ("yes: x\n", 1, 1, "in quotes"),
        ("~: x\n", 1, 1, "in quotes"),
        ("a: &x {b: 1}\nc:\n  <<: *x\n", 3, 3, "merge keys"),
        ("a: 0755\n", 1, 4, "octal"),
        ("a: 0x1F\n", 1, 4, "octal"),
    ],
)
def test_what_leaves_the_rest_readable(text: str, line: int, column: int, words: str) -> None:
    _, problems = read(text)
    assert [(found.line, found.column) for found in problems] == [(line, column)]
    assert words in problems[0].message


def test_aliases_are_written_out_and_keys_may_be_quoted() -> None:
    assert read('a: &x {"<<": 1, "1": 2}\nb: *x\n') == ([{"a": {"<<": 1, "1": 2}, "b": {"<<": 1, "1": 2}}], [])


def test_several_documents_and_empty_ones() -> None:
    assert read("---\n---\na: 1\n---\n# nothing\n---\nb: &x 2\n") == ([{"a": 1}, {"b": 2}], [])
    assert "alias" in refusal("a: &x 1\n---\nb: *x\n").message


def billion_laughs(wide: int) -> str:
    lines = ["a0: &a0 [" + ",".join(["x"] * wide) + "]"]
    lines += [f"a{n}: &a{n} [{','.join([f'*a{n - 1}'] * wide)}]" for n in range(1, 30)]
    return "\n".join(lines)


@pytest.mark.usefixtures("loader")
@pytest.mark.parametrize(
    "text",
    [
        billion_laughs(9),
        billion_laughs(2),
        "a: &a '" + "x" * 500_000 + "'\nb: [" + "*a," * 1000 + "]",
        "[" * 100_000,
        "{a: " * 100_000,
        "- " * 100_000,
        "? " * 100_000,
        "[" + "x," * (limits.MAX_NODES + 1) + "]",
        "--- a\n" * (limits.MAX_DOCUMENTS + 1),
    ],
    ids=["wide", "deep", "text", "lists", "mappings", "indented", "keys", "nodes", "documents"],
)
def test_a_yaml_bomb_is_refused_fast(text: str) -> None:
    started = time.process_time()
    refusal(text)
    assert time.process_time() - started < 10  # seconds, of Python's parser; libyaml takes a tenth


@given(st.text(st.sampled_from("ab:-[]{}&*!|>'\"%@`#?,~ \n\t0<."), max_size=60))
def test_any_text_is_read_or_refused(text: str) -> None:
    problems: list[Problem] = []
    try:
        list(read_documents(text, "f.kat", problems))
    except Refused as refused:
        problems.append(refused.problem)
    assert all(found.line >= 1 and found.column >= 1 for found in problems)
