"""Hook plugins: all installed ones take part, a disabled one is not imported, a broken one stops the start."""

from __future__ import annotations

import sys

import pytest

from kat_platform.errors import PluginError
from kat_platform.interfaces import Capability
from kat_platform.registry.catalog import Catalog
from kat_platform.registry.hooks import announcer_of, examine_hooks, load_hooks
from kat_platform.registry.plugins import load_plugins

GOOD = """
from pydantic import BaseModel, ConfigDict
from kat_platform.hooks import HookInfo, NodeFacts, hookimpl


class Facts:
    info = HookInfo(name="facts", version="1")

    class Config(BaseModel):
        model_config = ConfigDict(extra="forbid")
        disk: str = "ssd"

    def __init__(self, config):
        self.config = config

    @hookimpl
    async def node_facts(self):
        return NodeFacts({"disk": self.config.disk})
"""


@pytest.fixture
def facts(install):
    def installed(source: str = GOOD) -> None:
        install("kt-facts", {"kat.hooks": {"facts": "kt_facts:Facts"}}, {"kt_facts": source})

    return installed


async def test_an_installed_plugin_takes_part_with_its_configuration(facts):
    facts()
    announcer = load_hooks({"facts": {"disk": "tape", "enabled": True}}, Catalog.read())
    assert "facts" in announcer.plugins
    assert (await announcer.node_facts()).labels["disk"] == "tape"


def test_a_disabled_plugin_is_not_imported(facts):
    facts("raise SystemExit(1)")
    assert "facts" not in load_hooks({"facts": {"enabled": False, "disk": 3}}, Catalog.read()).plugins
    assert "kt_facts" not in sys.modules


async def test_a_module_may_be_the_plugin(install):
    source = GOOD.split("class Facts")[0] + (
        'info = HookInfo(name="facts", version="1")\n'
        '@hookimpl\nasync def node_facts():\n    return NodeFacts({"a": "b"})\n'
    )
    install("kt-facts", {"kat.hooks": {"facts": "kt_facts"}}, {"kt_facts": source})
    assert (await load_hooks({}, Catalog.read()).node_facts()).labels["a"] == "b"


@pytest.mark.parametrize(
    ("source", "config", "kind", "problem"),
    [
        ("import nothing_here", {}, "broken", "cannot be imported"),
        (GOOD.replace("HookInfo(", "dict("), {}, "contract", "its info is dict"),
        (GOOD.replace('name="facts"', 'name="fact"'), {}, "contract", "info.name is 'fact'"),
        (GOOD.replace('version="1"', 'version="1", api_version="3.1"'), {}, "api-version", "made for version 3.1"),
        (GOOD.replace("async def node", "def node"), {}, "contract", "must be 'async def'"),
        (GOOD.replace("def node_facts", "def node_fact"), {}, "contract", "unknown hook"),
        (GOOD.replace("self.config = config", "1 / 0"), {}, "broken", "ZeroDivisionError"),
        (GOOD.replace('extra="forbid"', ""), {}, "contract", "does not refuse unknown keys"),
        (GOOD, {"dsk": "x"}, "configuration", "did you mean 'disk'?"),
        (GOOD, {"enabled": "no"}, "configuration", "must be true or false"),
        (GOOD.replace("    class Config", "    class Other"), {"disk": "x"}, "configuration", "takes no configuration"),
    ],
)
def test_a_plugin_that_cannot_take_part_stops_the_start_and_says_how_to_go_on(facts, source, config, kind, problem):
    facts(source)
    with pytest.raises(PluginError, match=problem) as raised:
        load_hooks({"facts": config}, Catalog.read())
    (fault,) = raised.value.details["faults"]
    assert (fault["kind"], fault["group"], fault["distribution"]) == (kind, "kat.hooks", "kt-facts")
    assert "pluginConfig.facts.enabled: false" in fault["remedy"] or "valid keys" in fault["remedy"]
    examined = examine_hooks({"facts": config}, Catalog.read())
    assert "facts" not in announcer_of(examined).plugins


def test_two_distributions_with_one_name_are_refused(facts, install):
    facts()
    install("kt-facts-too", {"kat.hooks": {"facts": "kt_facts:Facts"}})
    with pytest.raises(PluginError, match="2 entry points offer this name"):
        load_hooks({}, Catalog.read())


def test_faults_of_drivers_and_hooks_come_in_one_error(facts, contexts):
    facts("import nothing_here")
    with pytest.raises(PluginError) as raised:
        load_plugins({Capability.DNS: "nowhere"}, {}, contexts, Catalog.read())
    groups = [fault["group"] for fault in raised.value.details["faults"]]
    assert groups.count("kat.hooks") == 1
    assert {capability.group for capability in Capability} <= set(groups)
