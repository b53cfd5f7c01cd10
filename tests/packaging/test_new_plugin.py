"""What `katcall plugin new` writes is a distribution: pip builds and installs it, and the host finds and checks it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

INSTALLED = os.environ.get("KAT_TEST_INSTALLED") == "1"
pytestmark = [
    pytest.mark.skipif(not INSTALLED, reason="not an installation: run `make test`"),
    pytest.mark.timeout(300),
]
KATCALL = Path(sys.executable).with_name("katcall")


class Place:
    """A folder with a plugin's source, its wheel, and where the wheel is installed."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.site = folder, folder / "site"
        self.environment = {
            **{key: value for key, value in os.environ.items() if not key.startswith("PYTEST_")},
            "PYTHONPATH": os.pathsep.join([sysconfig.get_path("purelib"), str(self.site)]),
            "KAT_CONFIG": str(folder / "none.json"),
        }

    def run(self, *command: object, code: int = 0) -> str:
        done = subprocess.run(
            [str(part) for part in command],
            cwd=self.folder, env=self.environment, capture_output=True, text=True, timeout=200,
        )  # fmt: skip
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout

    def install(self) -> None:
        pip = (sys.executable, "-m", "pip", "--quiet")
        self.run(*pip, "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", "dist", self.folder / "my-own")
        (wheel,) = (self.folder / "dist").glob("my_own-0.1.0-*.whl")
        self.run(*pip, "install", "--no-deps", "--target", self.site, wheel)


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


@pytest.mark.parametrize("capability", ["scheduler", "hooks"])
def test_it_is_built_installed_found_and_passes_its_check(place: Place, capability: str) -> None:
    place.run(KATCALL, "plugin", "new", capability, "my-own")
    place.install()
    assert (place.site / "my_own" / "py.typed").is_file()
    rows = json.loads(place.run(KATCALL, "plugin", "ls", "--local", "-o", "json"))["plugins"]
    (row,) = [row for row in rows if row["name"] == "my-own"]
    assert (row["group"], row["distribution"], row["version"]) == (f"kat.{capability}", "my-own", "0.1.0")
    assert row["faults"] == []
    checked = json.loads(place.run(KATCALL, "plugin", "check", "my-own", "-o", "json"))
    assert checked["capability"] == capability
    assert checked["passed"]
    assert len(checked["checks"]) > 5
    assert " passed" in place.run(sys.executable, "-m", "pytest", "-q", "--rootdir", "my-own", "my-own/tests")


def test_its_command_is_katcalls_and_wrong_settings_are_told(place: Place) -> None:
    place.run(KATCALL, "plugin", "new", "hooks", "my-own")
    place.install()
    assert "my-own" in place.run(KATCALL, "--help")
    assert place.run(KATCALL, "my-own", "app:1", "app") == "app:1: fine\napp: refused, it names no version\n"
    place.run(KATCALL, "plugin", "check", "my-own", "--config", '{"exempt": ["sandbox"]}')
    place.run(KATCALL, "plugin", "check", "my-own", "--config", '{"exmept": []}', code=1)
