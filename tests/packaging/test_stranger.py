"""A stranger's scheduler, as wheels that pip builds and installs: the good one works, each bad one stops the start.

The wheels are made of ``examples/third-party-scheduler``, changed as each case asks, and installed into a folder of the
test's own that a fresh Python finds after its other packages.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Any

import pytest

HOUSE = Path(__file__).resolve().parents[2]
EXAMPLE = HOUSE / "examples" / "third-party-scheduler"
INSTALLED = os.environ.get("KAT_TEST_INSTALLED") == "1"
pytestmark = [
    pytest.mark.skipif(not INSTALLED, reason="not an installation: run `make test`"),
    pytest.mark.timeout(300),
]

START = """
import json, sys
from pathlib import Path
from kat_platform.errors import PluginError
from kat_platform.interfaces import Capability, DriverContext
from kat_platform.interfaces.scheduler import Demand, PendingInstance, SchedulableNode, SchedulingSnapshot
from kat_platform.model.cluster import PluginChoice
from kat_platform.registry.catalog import Catalog
from kat_platform.registry.plugins import load_plugins
from kat_platform.registry.report import inspect_plugins

chosen = {Capability(key): name for key, name in PluginChoice(scheduler=sys.argv[1]).model_dump().items()}
config = json.loads(sys.argv[2])
catalog = Catalog.read()
context = lambda capability, name: DriverContext("n1", Path("data"), Path("run"), "kt1")
said = {"report": inspect_plugins(chosen, config, catalog).to_wire(), "imported": []}
try:
    scheduler = load_plugins(chosen, config, context, catalog).drivers.scheduler
    nodes = tuple(SchedulableNode(f"n{i}", 1000, 1 << 30) for i in range(3))
    demand = Demand("d", "default", "web", cpu_millicores=300, memory_bytes=1 << 20)
    pending = tuple(PendingInstance(f"i{i}", demand) for i in range(9))
    plan = scheduler.schedule(SchedulingSnapshot(1, nodes), pending)
    said["placed"] = sorted(placement.node for placement in plan.placements)
except PluginError as error:
    said["error"] = str(error)
    said["faults"] = error.details["faults"]
said["imported"] = [name for name in sys.modules if name.startswith("least_loaded")]
print(json.dumps(said))
"""

CHECK = """
import asyncio, sys
from kat_platform.interfaces import Capability
from kat_platform.testing.conformance import run_for_driver
outcomes = asyncio.run(run_for_driver(Capability.SCHEDULER, sys.argv[1]))
print(len(outcomes), *(f"{each.check}: {each.failure}" for each in outcomes if not each.passed), sep="\\n")
"""


class Stranger:
    """A folder of installed wheels, and a Python that sees them beside KAT."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.site = folder / "site"

    def install(self, *changes: tuple[str, str, str], distribution: str = "least-loaded-scheduler") -> None:
        """Build the example with ``(file, old, new)`` changes, and install the wheel."""
        source = self.folder / "source"
        shutil.rmtree(source, ignore_errors=True)
        shutil.copytree(EXAMPLE, source, ignore=shutil.ignore_patterns(".*", "__pycache__", "build", "*.egg-info"))
        for name, old, new in (*changes, ("pyproject.toml", '"least-loaded-scheduler"', f'"{distribution}"')):
            text = (source / name).read_text()
            assert old in text, f"{name} has no {old!r} any more"
            (source / name).write_text(text.replace(old, new))
        out = self.folder / "wheels" / distribution
        self._pip("wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", out, source)
        self._pip("install", "--no-deps", "--upgrade", "--target", self.site, *out.glob("*.whl"))

    def _pip(self, *arguments: object) -> None:
        command = [sys.executable, "-m", "pip", "--quiet", *map(str, arguments)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr

    def python(self, code: str, *arguments: str) -> str:
        """Run code in a fresh Python, as the agent would be started."""
        path = os.pathsep.join([sysconfig.get_path("purelib"), str(self.site)])
        environment = {**os.environ, "PYTHONPATH": path}
        command = [sys.executable, "-c", code, *arguments]
        done = subprocess.run(command, env=environment, cwd=self.folder, capture_output=True, text=True, timeout=240)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def start(self, name: str = "least-loaded", config: dict[str, Any] | None = None) -> dict[str, Any]:
        """Load all plugins with this scheduler chosen, and place nine instances on three nodes."""
        said: dict[str, Any] = json.loads(self.python(START, name, json.dumps(config or {})))
        return said


@pytest.fixture
def stranger(tmp_path: Path) -> Stranger:
    return Stranger(tmp_path)


def test_a_strangers_scheduler_is_chosen_by_name_and_places_instances(stranger: Stranger):
    stranger.install()
    said = stranger.start(config={"least-loaded": {"memoryWeight": 2}})
    assert "error" not in said, said["error"]
    assert said["placed"] == ["n0"] * 3 + ["n1"] * 3 + ["n2"] * 3
    (row,) = [row for row in said["report"]["plugins"] if row["name"] == "least-loaded"]
    assert (row["state"], row["distribution"]) == ("chosen", "least-loaded-scheduler")


@pytest.mark.slow
def test_it_passes_the_kit_that_the_default_scheduler_passes(stranger: Stranger):
    stranger.install()
    count, *failures = stranger.python(CHECK, "least-loaded").split("\n")
    assert int(count) > 30
    assert [line for line in failures if line] == []


def test_it_is_not_imported_while_another_is_chosen(stranger: Stranger):
    stranger.install(("least_loaded/scheduler.py", '"""', 'raise SystemExit("imported")\n"""'))
    said = stranger.start("binpack")
    assert "error" not in said
    assert said["imported"] == []
    (row,) = [row for row in said["report"]["plugins"] if row["name"] == "least-loaded"]
    assert row["state"] == "installed"


def test_a_missing_one_stops_the_start_and_the_nearest_name_is_offered(stranger: Stranger):
    stranger.install()
    (fault,) = stranger.start("least-loded")["faults"]
    assert fault["kind"] == "missing"
    assert "did you mean 'least-loaded'?" in fault["remedy"]


def test_a_broken_one_stops_the_start(stranger: Stranger):
    stranger.install(("least_loaded/scheduler.py", "from __future__", "import nothing_of_this_name\nfrom __future__"))
    (fault,) = stranger.start()["faults"]
    assert (fault["kind"], fault["distribution"]) == ("broken", "least-loaded-scheduler")
    assert "No module named 'nothing_of_this_name'" in fault["problem"] or "SyntaxError" in fault["problem"]


def test_one_of_another_api_version_stops_the_start(stranger: Stranger):
    stranger.install(("least_loaded/scheduler.py", "DriverInfo(", 'DriverInfo(api_version="2.0", '))
    (fault,) = stranger.start()["faults"]
    assert fault["kind"] == "api-version"
    assert "2.0" in fault["problem"]


def test_two_of_one_name_stop_the_start_and_both_are_named(stranger: Stranger):
    stranger.install()
    stranger.install(distribution="other-scheduler")
    (fault,) = stranger.start()["faults"]
    assert fault["kind"] == "duplicate"
    assert "least-loaded-scheduler" in fault["remedy"]
    assert "other-scheduler" in fault["remedy"]


def test_all_faults_come_in_one_report(stranger: Stranger):
    stranger.install(("least_loaded/scheduler.py", "DriverInfo(", 'DriverInfo(api_version="2.0", '))
    said = stranger.start(config={"podmann": {"x": 1}, "binpack": {}})
    assert {fault["kind"] for fault in said["faults"]} == {"api-version", "configuration"}
    assert said["error"].count("\n  - ") == len(said["faults"]) == 2
    assert "did you mean pluginConfig.podman?" in said["error"]
