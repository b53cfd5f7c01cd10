"""Plugins that are missing, broken, there twice or of another API version stop the start: one report, all faults."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from .node import RealNode
from .site import add_distribution

BROKEN = {
    "kt_broken": "import kt_a_module_that_is_not_there\n",
    "kt_old": """
from kat_platform.interfaces.driver import Capability, DriverInfo
class Old:
    info = DriverInfo(name="kt-old", version="1", capability=Capability.BUILDER, api_version="v0")
    config_schema = None
    def __init__(self, config, context): ...
""",
    "kt_twin": "class Twin: ...\n",
}


@pytest.fixture
def node(tmp_path: Path) -> Iterator[RealNode]:
    """A node with four bad plugins installed beside the good ones; never started."""
    for name, code in BROKEN.items():
        (tmp_path / f"{name}.py").write_text(code)
    add_distribution(tmp_path, "kt-broken", "1.0", {"kat.dns": {"kt-broken": "kt_broken:Dns"}})
    add_distribution(tmp_path, "kt-old", "1.0", {"kat.builder": {"kt-old": "kt_old:Old"}})
    for copy in ("kt-twin-a", "kt-twin-b"):
        add_distribution(tmp_path, copy, "1.0", {"kat.scheduler": {"kt-twin": "kt_twin:Twin"}})
    node = RealNode(path=str(tmp_path))
    yield node
    left = node.remove()
    assert not left, left


CHOSEN = {"dns": "kt-broken", "builder": "kt-old", "scheduler": "kt-twin", "auth": "kt-missing"}


def test_a_start_with_bad_plugins_stops_with_one_report_of_all_faults(node: RealNode):
    node.init()
    config = json.loads(node.config.read_text())
    config["spec"]["plugins"] = CHOSEN
    bad = node.folder / "bad.kat"
    bad.write_text(json.dumps(config))
    assert node.command("configure", "--config", str(bad), "--data-path", str(node.data)).returncode == 0
    done = node.command("run", "--data-path", str(node.data), timeout=30)
    assert done.returncode == 1
    report = done.stderr
    assert "Traceback" not in report
    for words in ("kt-missing", "kt-broken", "kt_a_module_that_is_not_there", "kt-old", "v0", "kt-twin-a", "kt-twin-b"):
        assert words in report, f"the report does not speak of {words}: {report}"
    assert not node.processes(), "something was started all the same"
    # The way back.
    assert node.command("configure", "--config", str(node.config), "--data-path", str(node.data)).returncode == 0
    node.start_agent()
    node.wait_ready()
    listed = node.katcall("plugin", "ls", "-o", "json")
    assert listed.returncode == 0, listed.stderr
    assert "kt-broken" in listed.stdout


def test_init_checks_the_plugins_first_and_makes_nothing(node: RealNode):
    config = json.loads(node.config.read_text())
    config["spec"]["plugins"] = CHOSEN
    node.config.write_text(json.dumps(config))
    done = node.command("init", "--config", str(node.config))
    assert done.returncode == 1
    assert all(name in done.stderr for name in CHOSEN.values()), done.stderr
    assert not node.data.exists()
    checked = node.command("check", "--config", str(node.config))
    assert checked.returncode == 1
    assert all(name in checked.stdout for name in CHOSEN.values()), checked.stdout
