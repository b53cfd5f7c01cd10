"""``katcall plugin new`` writes a distribution whose tests pass as it stands, and writes nothing where it must not."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from kat_platform.cli import scaffold

HOUSE = Path(__file__).resolve().parents[3]
EXAMPLE = HOUSE / "examples" / "third-party-scheduler" / "least_loaded"


def python(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    # As in a shell of one's own: nothing of the run that this test belongs to.
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("PYTEST_", "KAT_"))}
    command = [sys.executable, *arguments]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=100)


@pytest.mark.parametrize("capability", scaffold.KINDS)
def test_what_is_written_passes_its_own_tests_and_is_tidy(katcall, tmp_path, monkeypatch, capability):
    monkeypatch.chdir(tmp_path)
    told = katcall("plugin", "new", capability, "my-own")
    folder = tmp_path / "my-own"
    written = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    assert written >= {"pyproject.toml", "README.md", "CHANGELOG.md", "my_own/py.typed", "tests/test_conformance.py"}
    assert {line for line in told.out.splitlines() if line.startswith("wrote")} == {
        f"wrote my-own/{each}" for each in written
    }
    tests = python(folder, "-m", "pytest", "-q", "-W", "error::DeprecationWarning")
    assert tests.returncode == 0, tests.stdout + tests.stderr
    assert "skipped" not in tests.stdout
    for ruff in (("check",), ("format", "--check")):
        style = python(folder, "-m", "ruff", *ruff, "--no-cache", ".")
        assert style.returncode == 0, style.stdout


def test_the_kit_in_it_bites(katcall, tmp_path):
    katcall("plugin", "new", "scheduler", "my-own", "--dir", tmp_path / "here")
    rules = tmp_path / "here" / "my_own" / "rules.py"
    rules.write_text(rules.read_text().replace("if node.cordoned:", "if False:"))
    tests = python(tmp_path / "here", "-m", "pytest", "-q", "tests/test_conformance.py")
    assert tests.returncode == 1
    assert "cordon" in tests.stdout


def test_it_asks_for_this_kat_and_enters_by_the_door_of_its_kind(tmp_path):
    for kind, each in scaffold.KINDS.items():
        scaffold.write(kind, "my-own", tmp_path / kind)
        project = tomllib.loads((tmp_path / kind / "pyproject.toml").read_text())["project"]
        assert project["dependencies"][0] == "kat>=1.0,<2"
        (door,) = project["entry-points"][each.group].values()
        assert door == f"my_own.{each.module}:MyOwn{each.suffix}"


def test_the_worked_example_and_what_is_written_have_the_same_rules(tmp_path):
    scaffold.write("scheduler", "my-own", tmp_path)
    assert (tmp_path / "my_own" / "rules.py").read_text() == (EXAMPLE / "rules.py").read_text()


@pytest.mark.parametrize(
    ("name", "code"),
    [
        *((name, 2) for name in ("My", "1st", "a_b", "a--b", "a-", "-a", "é", "a/b", "..", "x" * 41, "class", "tests")),
        *((name, 2) for name in ("json", "none-")),
        *((name, 4) for name in ("pydantic", "kat-platform")),
    ],
)
def test_a_name_that_cannot_be_writes_nothing(katcall, tmp_path, name, code):
    katcall("plugin", "new", "--dir", tmp_path / "new", "--", "scheduler", name, code=code)
    assert not (tmp_path / "new").exists()


def test_what_is_there_is_left_alone(katcall, tmp_path):
    (tmp_path / "mine").write_text("precious")
    assert "not empty" in katcall("plugin", "new", "hooks", "my-own", "--dir", tmp_path, code=4).err
    katcall("plugin", "new", "hooks", "my-own", "--dir", tmp_path / "mine", code=4)
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


def test_other_capabilities_are_said_not_to_be_there_yet(katcall, tmp_path):
    told = katcall("plugin", "new", "store", "my-own", "--dir", tmp_path / "new", code=1).err
    assert "not supported yet" in told
    assert "scheduler or hooks" in told
    katcall("plugin", "new", "stores", "my-own", "--dir", tmp_path / "new", code=2)
    assert not (tmp_path / "new").exists()
