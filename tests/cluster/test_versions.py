"""A lab of two versions, for real: workers ahead and behind, and a control plane that is upgraded node by node.

The later version is this one with another number and with fields in records, reports and views that nobody knows yet.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import sys
from functools import partial
from pathlib import Path

import pytest

from kat_platform import __version__
from kat_platform.errors import KatError

from .host import wait_for
from .lab import MakeLab
from .site import HOUSE
from .test_control_plane import NODES, Trio, Writer
from .test_lab import make_lab

__all__ = ["make_lab"]

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]
ALL = (*NODES, "n4")
ADDITIONS = {
    "model/node.py": ("NodeRecord", "NodeReport", "NodeStanding"),
    "model/view.py": ("NodeItem", "ClusterItem", "ServiceItem", "AssignmentItem", "ReportBody"),
    "model/instance.py": ("InstanceRecord", "InstanceStatus"),
}


def minor(by: int) -> str:
    """Give the version that is so many minor versions from this one."""
    major, own, _ = __version__.split(".", 2)
    return f"{major}.{int(own) + by}.0"


def another_installation(folder: Path, version: str, python_path: str) -> Path:
    """Make KAT of another version beside this one; gives its Python."""
    site = folder / "site"
    for name in ("kat_platform", *(path.parent.name for path in HOUSE.glob("plugins/*/kat_*/__init__.py"))):
        found = importlib.util.find_spec(name)
        assert found is not None
        assert found.origin is not None
        shutil.copytree(Path(found.origin).parent, site / name, ignore=shutil.ignore_patterns("__pycache__"))
    core = site / "kat_platform"
    init = core / "__init__.py"
    init.write_text(init.read_text().replace(f'"{__version__}"', f'"{version}"'))
    for name, classes in ADDITIONS.items():
        text = (core / name).read_text()
        for each in classes:
            text, made = re.subn(
                rf'(^class {each}\(Model\):\n    """.*?"""\n)', r'\1\n    later: str = "x"\n', text, flags=re.M | re.S
            )
            assert made == 1, each
        (core / name).write_text(text)
    python = folder / "python"
    path = os.pathsep.join(filter(None, [str(site), python_path]))  # it goes before what is installed
    python.write_text(f'#!/bin/sh\nPYTHONPATH={path} exec {sys.executable} "$@"\n')
    python.chmod(0o755)
    return python


@pytest.fixture(scope="module")
def lab(make_lab: MakeLab) -> Trio:
    """Three control-plane nodes and a worker. A node whose agent is away for some seconds is not given up."""
    lab = make_lab(Trio, nodeLossTimeoutSeconds=40)
    lab.up_with_webs(*ALL)
    return lab


def versions(lab: Trio) -> dict[str, str]:
    """Give the version of each ready node's agent, as the cluster tells; nothing while a server is being changed."""
    try:
        items = lab.client.get("nodes", consistent=True)["items"]
    except KatError:
        return {}
    return {i["name"]: i["report"]["versions"]["agent"] for i in items if i["ready"]}


def change(lab: Trio, node: str, python: str | Path) -> None:
    """Start a node's agent with another installation."""
    lab.lab("stop", "--only", "agent", node)
    lab.lab("start", node, "--python", str(python))


def upgraded(lab: Trio, node: str) -> None:
    """Wait until a control-plane node is of the later version, ready, and serves."""
    wait_for(lambda: versions(lab).get(node) == minor(1), f"{node} is upgraded", 60)
    wait_for(lambda: lab.leader(node) is not None, f"{node} serves", 60)


def taken(writer: Writer, count: int) -> bool:
    """Tell whether so many writes have been acknowledged."""
    return len(writer.acknowledged) >= count


def test_versions_one_apart_work_together_and_an_upgrade_touches_no_container(lab: Trio, tmp_path: Path) -> None:
    later = another_installation(tmp_path / "later", minor(1), lab.environment["PYTHONPATH"])
    wanted = len(lab.instances())
    # A worker ahead of the control plane.
    change(lab, "n4", later)
    wait_for(lambda: versions(lab) == {**dict.fromkeys(NODES, __version__), "n4": minor(1)}, "n4 is ahead", 60)
    lab.scale("web", wanted + 4)
    assert minor(1) in lab.katcall("node", "ls")
    lab.scale("web", wanted)
    running = {node: lab.served(node) for node in ALL}
    # The control plane, node by node, while somebody writes.
    with Writer(lab) as writer:
        for node in NODES:
            change(lab, node, later)
            upgraded(lab, node)
            enough = len(writer.acknowledged) + 10
            wait_for(partial(taken, writer, enough), "writes are taken", 30)
    assert versions(lab) == dict.fromkeys(ALL, minor(1))
    for node in NODES:
        names = {item["name"] for item in lab.through(node).get("namespaces", consistent=True)["items"]}
        assert not writer.acknowledged - names, f"{node} lacks what was acknowledged"
    assert lab.through("n1").get("version")["agents"] == {"oldest": minor(0)[:3], "newest": minor(2)[:3]}
    lab.scale("web", wanted + 4)
    # A worker behind the control plane: its view and the records have what it does not know.
    change(lab, "n4", sys.executable)
    wait_for(lambda: versions(lab).get("n4") == __version__, "n4 is behind", 60)
    lab.scale("web", wanted + 8)
    assert lab.on("n4")
    for node in ALL:
        assert running[node].items() <= lab.served(node).items(), f"a container of {node} was touched"
    # A worker too far away: refused, told what to install, and what it runs goes on.
    much = another_installation(tmp_path / "much", minor(9), lab.environment["PYTHONPATH"])
    before = lab.served("n4")
    change(lab, "n4", much)
    reason = wait_for(lambda: _reason(lab, "n4"), "n4 is refused", 60)
    assert f"install kat {minor(1)[:3]}" in reason
    assert lab.served("n4") == before
    wait_for(lambda: "does not work with a cluster" in lab.log("n4").read_text(), "its agent says so", 20)
    change(lab, "n4", later)
    wait_for(lambda: versions(lab).get("n4") == minor(1), "n4 is well again", 60)
    assert lab.served("n4").items() >= before.items()
    assert json.loads(lab.katcall("version", "-o", "json"))["server"] == minor(1)


def _reason(lab: Trio, node: str) -> str:
    """Say why a node is not ready."""
    found = lab.client.get("nodes", node)
    return "" if found["ready"] else str(found.get("reason", ""))
