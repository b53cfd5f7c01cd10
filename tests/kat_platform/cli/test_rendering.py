"""JSONPath, tables, colours, lengths of time: the small parts of katcall."""

from __future__ import annotations

import io
import os
import subprocess
import sys

import click
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kat_platform.cli import render
from kat_platform.cli.client import error_of
from kat_platform.cli.jsonpath import evaluate
from kat_platform.cli.session import Duration, split_workload
from kat_platform.errors import Conflict, Denied, KatError, StoreFull, TimedOut, UsageError

DATA = {"items": [{"name": "a", "n": 1}, {"name": "b", "labels": {"x.y/z": "v"}}], "none": None, "dotted.key": 5}


@pytest.mark.parametrize(
    ("template", "wanted"),
    [
        ("{.items[*].name}", "a b"),
        (".items[0].name", "a"),
        ("{$.items[-1].name}", "b"),
        ("{.items[1].labels['x.y/z']}", "v"),
        ('{.items[1].labels["x.y/z"]}', "v"),
        (r"{.dotted\.key}", "5"),
        ('{.items[0].n}{"\\t"}{.items[1].name}\\n', "1\tb\n"),
        ("{.items[9].name}|{.nothing.at.all}|", "||"),
        ("{.none}", "null"),
        ("{.items[0]}", '{"name": "a", "n": 1}'),
        ("n={.items[0].n}", "n=1"),
    ],
)
def test_jsonpath(template, wanted):
    assert evaluate(template, DATA) == wanted


@pytest.mark.parametrize(
    "template", ["{.items[?(@.n==1)]}", "{..name}", "{.items[0:2]}", "{.items", "{range .items[*]}", "{.a b}"]
)
def test_jsonpath_that_is_not_supported_is_refused(template):
    with pytest.raises(UsageError):
        evaluate(template, DATA)


@given(st.text(max_size=20))
def test_jsonpath_never_crashes(template):
    try:
        evaluate(template, DATA)
    except UsageError:
        pass
    except ValueError:
        assert '"' in template  # a literal that is no JSON text


def test_tables_line_up_and_hostile_text_is_tamed():
    text = render.table(("NAME", "WHY"), [("a", "x"), ("longer", "y")])
    assert [line.index(word) for line, word in zip(text.splitlines(), ("WHY", "x", "y"), strict=True)] == [8, 8, 8]
    assert "\x1b" not in render.clean("\x1b[31mred\x07")
    assert render.clean("a\nb") == "a b"


def test_colour_only_where_it_is_wanted(monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    assert "\x1b" in render.paint("x", "red", Terminal())
    assert render.paint("x", "red", io.StringIO()) == "x"
    monkeypatch.setenv("NO_COLOR", "1")
    assert render.paint("x", "red", Terminal()) == "x"


@pytest.mark.parametrize(("text", "seconds"), [("90", 90), ("90s", 90), ("5m", 300), ("1h30m", 5400), ("0.5s", 0.5)])
def test_durations(text, seconds):
    assert Duration().convert(text, None, None) == seconds


@pytest.mark.parametrize("text", ["", "x", "5 m", "-1s", "m"])
def test_what_is_no_duration(text):
    with pytest.raises(click.BadParameter):
        Duration().convert(text, None, None)


def test_workload_and_instance():
    assert split_workload("web") == ("web", None)
    assert split_workload("web/web-1") == ("web", "web-1")
    assert split_workload("workload/web") == ("web", None)
    for wrong in ("", "/x", "a/b/c"):
        with pytest.raises(UsageError):
            split_workload(wrong)


@pytest.mark.parametrize(
    ("status", "code", "kind", "exit_code"),
    [(409, "conflict", Conflict, 4), (403, "denied", Denied, 5), (507, "store-full", StoreFull, 1),
     (504, "timed-out", TimedOut, 6), (418, "brand-new", KatError, 1), (404, "brand-new", KatError, 3)],
)  # fmt: skip
def test_problems_become_the_errors_they_stand_for(status, code, kind, exit_code):
    error = error_of(status, {"code": code, "detail": "so it is", "details": {"message": "x", "hint": "y"}})
    assert isinstance(error, kind)
    assert (error.exit_code, error.message) == (exit_code, "so it is")


_HEAVY = ("aiohttp", "pydantic", "rich", "yaml", "cryptography", "http.client")


def test_katcall_starts_without_heavy_parts():
    code = "import sys; from kat_platform.cli.main import run; run(['version', '--client']); "
    code += f"print(*[name for name in {_HEAVY} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=30)
    assert done.stdout.splitlines()[1] == ""


def test_a_broken_pipe_is_quiet():
    code = "import sys; from kat_platform.cli.main import main; main(['explain', 'workload'])"
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run([sys.executable, "-c", code], stdout=writer, stderr=subprocess.PIPE, timeout=30)
    os.close(writer)
    assert done.stderr == b""
    assert done.returncode in (0, 1)
