"""Whose ``kat`` is installed: ours, from its own wheel, with its plugins as distributions of their own.

These tests look at an installation made as users make it (``scripts/install.sh``). ``make test`` runs all tests in one;
in a checkout without one they are passed over.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import sysconfig
from importlib import metadata
from pathlib import Path

import pytest

import kat_platform
from kat_platform.interfaces import Capability
from kat_platform.model.cluster import PluginChoice
from kat_platform.registry.catalog import Catalog
from kat_platform.registry.drivers import load_driver_class

HOUSE = Path(__file__).resolve().parents[2]
INSTALLED = os.environ.get("KAT_TEST_INSTALLED") == "1"
pytestmark = pytest.mark.skipif(not INSTALLED, reason="not an installation: run `make test`")
BIN = Path(sys.executable).parent


def test_the_code_under_test_is_the_installed_one():
    assert Path(kat_platform.__file__).is_relative_to(sysconfig.get_path("purelib"))
    assert not Path(kat_platform.__file__).is_relative_to(HOUSE / "kat_platform")


def test_the_kat_that_is_installed_is_ours():
    # The public index has a distribution of this name that is somebody else's, version 0.1.10.
    ours = metadata.distribution("kat")
    assert ours.version == kat_platform.__version__
    assert ours.metadata["Summary"].startswith("A container orchestrator")
    assert {str(path).split("/")[0] for path in ours.files or ()} >= {"kat_platform"}
    scripts = {entry.name: entry.value for entry in ours.entry_points if entry.group == "console_scripts"}
    assert scripts == {"katcall": "kat_platform.cli.main:main", "kat-agent": "kat_platform.cli.agent_main:main"}


def test_it_came_from_the_wheel_in_dist():
    for name in ("kat", *default_distributions()):
        origin = metadata.distribution(name).read_text("direct_url.json") or ""
        assert re.search(rf"/dist/{name.replace('-', '_')}-[^/]*\.whl", origin), (
            f"{name} came from {origin or 'an index'}"
        )


def default_distributions() -> list[str]:
    lines = [line for line in metadata.requires("kat") or [] if 'extra == "default"' in line.replace("'", '"')]
    return [re.split(r"[<>=; ]", line)[0] for line in lines]


def test_every_default_plugin_is_a_distribution_of_its_own_and_is_ours():
    names = default_distributions()
    assert len(names) == len(Capability)
    for name in names:
        distribution = metadata.distribution(name)
        assert distribution.version == "1.0.0" or distribution.version.startswith("1.")
        assert any(entry.group.startswith("kat.") for entry in distribution.entry_points), name
        assert not any(str(path).startswith("kat_platform/") for path in distribution.files or ()), name


@pytest.mark.parametrize("capability", list(Capability))
def test_each_default_driver_is_found_by_name_and_keeps_its_contract(capability):
    name = getattr(PluginChoice(), capability.value)
    (entry,) = Catalog.read().named(capability.group, name)
    assert entry.distribution in default_distributions()
    assert load_driver_class(capability, name).info.name == name


def test_types_are_shipped():
    for module in ("kat_platform", *(path.name for path in (HOUSE / "plugins").glob("*/kat_*"))):
        folder = Path(sysconfig.get_path("purelib")) / module
        assert (folder / "py.typed").is_file(), module


@pytest.mark.parametrize("command", [["katcall", "version", "--client"], ["kat-agent", "version"]], ids=lambda c: c[0])
def test_both_programs_tell_their_version(command):
    done = subprocess.run([BIN / command[0], *command[1:]], capture_output=True, text=True, timeout=30)
    assert done.returncode == 0, done.stderr
    assert kat_platform.__version__ in done.stdout


def test_every_module_of_the_core_can_be_imported_from_the_wheel():
    files = metadata.distribution("kat").files or []
    names = [str(path)[:-3].replace("/", ".").removesuffix(".__init__") for path in files if str(path).endswith(".py")]
    code = f"import importlib; [importlib.import_module(name) for name in {names!r}]"
    done = subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
