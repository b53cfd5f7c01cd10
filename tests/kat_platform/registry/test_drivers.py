"""Choosing drivers: the good ones are constructed, and every fault of the others is told at once."""

from __future__ import annotations

import sys

import pytest

from kat_platform.errors import PluginError
from kat_platform.interfaces import Capability
from kat_platform.registry.catalog import Catalog
from kat_platform.registry.drivers import load_driver_class, load_drivers

CHOSEN = {capability: f"t{capability}" for capability in Capability}


@pytest.fixture
def seven(install_driver):
    """Install a good driver for every capability."""
    for capability, name in CHOSEN.items():
        install_driver(capability, name)


def faults_of(error: PluginError) -> list[tuple[str, str, str]]:
    return [(fault["kind"], fault["group"], fault["name"]) for fault in error.details["faults"]]


def load(contexts, chosen=None, config=None):
    return load_drivers({**CHOSEN, **(chosen or {})}, config or {}, contexts, Catalog.read())


@pytest.mark.usefixtures("seven")
def test_each_driver_is_made_with_its_validated_config_and_its_context(contexts):
    drivers = load(contexts, config={"tstore": {"size": 7}})
    assert drivers.store.config.size == 7
    assert drivers.runtime.config.size == 1
    assert drivers.scheduler.context.node_name == "node-1"
    assert [capability for capability, _ in drivers.all()] == list(Capability)
    assert [driver.info.name for _, driver in drivers.all()] == list(CHOSEN.values())


@pytest.mark.usefixtures("seven")
def test_what_is_not_chosen_is_never_imported(install_driver, contexts):
    install_driver(Capability.STORE, "bomb", source="raise SystemExit('imported')")
    load(contexts)
    assert "kt_store_bomb" not in sys.modules


@pytest.mark.usefixtures("seven")
def test_every_fault_of_every_plugin_stands_in_one_error(install, install_driver, contexts):
    install_driver(Capability.RUNTIME, "bomb", source="import no_such_module")
    install_driver(Capability.NETWORK, "old", api="2.0")
    install_driver(Capability.STORE, "half", without="put")
    install("kt-twin", {Capability.SCHEDULER.group: {"tscheduler": "kt_twin:Driver"}})
    chosen = {
        Capability.RUNTIME: "bomb",
        Capability.NETWORK: "old",
        Capability.STORE: "half",
        Capability.DNS: "tdn",
    }
    with pytest.raises(PluginError) as raised:
        load(contexts, chosen, {"tauth": {"sise": 1, "size": "large"}, "tbuildr": {"size": 2}})
    assert sorted(faults_of(raised.value)) == [
        ("api-version", "kat.network", "old"),
        ("broken", "kat.runtime", "bomb"),
        ("configuration", "kat.auth", "tauth"),
        ("configuration", "kat.auth", "tauth"),
        ("configuration", "pluginConfig", "tbuildr"),
        ("contract", "kat.store", "half"),
        ("duplicate", "kat.scheduler", "tscheduler"),
        ("missing", "kat.dns", "tdn"),
    ]
    text = str(raised.value)
    for expected in (
        "8 faults",
        "kt-network-old 1.0 (old = kt_network_old:Driver): it is made for version 2.0",
        "ModuleNotFoundError: No module named 'no_such_module'",
        "did you mean 'tdns'?",
        "did you mean pluginConfig.tbuilder?",
        "pluginConfig.tauth.sise: there is no such key, did you mean 'size'?",
        "pluginConfig.tauth.size: Input should be a valid integer",
        "it has no put()",
        "uninstall all but one of: kt-scheduler-tscheduler, kt-twin",
    ):
        assert expected in text
    assert "large" not in text, "a value of the configuration may be a secret"


@pytest.mark.usefixtures("seven")
@pytest.mark.parametrize("bomb", ["raise SystemExit(3)", "assert False, 'no'", "1/0", "def", "from os import nothing"])
def test_a_module_may_fail_in_any_way_on_import(install_driver, contexts, bomb):
    install_driver(Capability.DNS, "bomb", source=bomb)
    with pytest.raises(PluginError, match="it cannot be imported") as raised:
        load(contexts, {Capability.DNS: "bomb"})
    assert faults_of(raised.value) == [("broken", "kat.dns", "bomb")]


@pytest.mark.usefixtures("seven")
def test_a_constructor_that_fails_is_the_plugins_fault(install_driver, contexts):
    body = "\nclass Other(Driver):\n    def __init__(self, config, context): raise OSError('disk')\nDriver = Other\n"
    install_driver(Capability.DNS, "bomb", body=body)
    with pytest.raises(PluginError, match="cannot be constructed: OSError: disk"):
        load(contexts, {Capability.DNS: "bomb"})


@pytest.mark.usefixtures("seven")
def test_a_capability_without_a_choice_is_a_fault(contexts):
    with pytest.raises(PluginError, match="no dns driver is chosen") as raised:
        load(contexts, {Capability.DNS: ""})
    (fault,) = raised.value.details["faults"]
    assert "plugins.dns in cluster.kat" in fault["remedy"]
    assert "tdns" in fault["remedy"]


@pytest.mark.usefixtures("seven")
def test_settings_for_two_chosen_drivers_of_one_name_are_refused(install_driver, contexts):
    install_driver(Capability.DNS, "tauth")
    with pytest.raises(PluginError, match="2 chosen drivers have this name"):
        load(contexts, {Capability.DNS: "tauth"}, {"tauth": {"size": 2}})
    load(contexts, {Capability.DNS: "tauth"}, {"tauth": {}})


@pytest.mark.usefixtures("seven")
def test_settings_of_an_installed_driver_that_is_not_chosen_may_stay(install_driver, contexts):
    install_driver(Capability.DNS, "other", source="raise SystemExit")
    load(contexts, config={"other": {"anything": 1}})


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"body": "Driver.info = None"}, "its info is NoneType, not a DriverInfo"),
        ({"name": "other"}, "its info.name is 'other', its entry point's name 'mine'"),
        ({"capability": Capability.DNS}, "its info.capability is 'dns'"),
        ({"api": "two"}, "which is not MAJOR.MINOR"),
        ({"api": "0.9"}, "made for version 0.9"),
        ({"body": "Driver.Config = dict"}, "its Config is not a pydantic model"),
        ({"body": "Driver.Config = type('C', (BaseModel,), {})"}, "does not refuse unknown keys"),
        ({"without": "explain"}, "it has no explain()"),
        ({"body": "Driver = Driver(None, None)"}, "names a Driver, not a class"),
        ({"body": "Driver.schedule = 3"}, "its schedule is not a method"),
        ({"body": "del Driver"}, "it cannot be imported: "),
    ],
)
def test_a_driver_whose_form_is_wrong_is_refused(install, source_of, change, problem):
    change = dict(change)
    capability, name = change.pop("capability", Capability.SCHEDULER), change.pop("name", "mine")
    source = source_of(capability, name, **change)
    if capability is not Capability.SCHEDULER:
        source += "\nDriver.schedule = Driver.explain = lambda self, snapshot, pending: None\n"
    install("kt-mine", {Capability.SCHEDULER.group: {"mine": "kt_mine:Driver"}}, {"kt_mine": source})
    with pytest.raises(PluginError) as raised:
        load_driver_class(Capability.SCHEDULER, "mine", Catalog.read())
    assert problem in str(raised.value)
    assert raised.value.details["faults"][0]["distribution"] == "kt-mine"
