"""The report shows what is chosen, what is merely there, and what is refused and why."""

from __future__ import annotations

import json
import sys

from kat_platform.interfaces import Capability
from kat_platform.registry.catalog import Catalog
from kat_platform.registry.report import PluginState, inspect_plugins

CHOSEN = {capability: f"t{capability}" for capability in Capability}


def test_every_plugin_has_a_row_with_its_state(install_driver, install):
    for capability, name in CHOSEN.items():
        if capability not in (Capability.DNS, Capability.STORE):
            install_driver(capability, name)
    install_driver(Capability.STORE, "tstore", api="9.0")
    install_driver(Capability.STORE, "spare", source="raise SystemExit")
    install("kt-off", {"kat.hooks": {"off": "kt_off"}}, {"kt_off": "raise SystemExit"})
    report = inspect_plugins(CHOSEN, {"off": {"enabled": False}, "stray": {}}, Catalog.read())

    rows = {(row.group, row.name): row for row in report.rows if row.distribution.startswith("kt-") or row.faults}
    assert rows["kat.runtime", "truntime"].state is PluginState.CHOSEN
    assert rows["kat.runtime", "truntime"].api_version == "1.0"
    assert rows["kat.runtime", "truntime"].capabilities == {"fast": True}
    assert rows["kat.store", "tstore"].state is PluginState.REFUSED
    assert rows["kat.store", "spare"].state is PluginState.INSTALLED
    assert rows["kat.store", "spare"].api_version == ""
    assert rows["kat.dns", "tdns"].state is PluginState.REFUSED
    assert rows["kat.dns", "tdns"].distribution == ""
    assert rows["kat.hooks", "off"].state is PluginState.INSTALLED
    assert "kt_store_spare" not in sys.modules
    assert "kt_off" not in sys.modules
    assert not report.usable
    assert [fault.name for fault in report.faults] == ["stray"]


def test_json_and_table_tell_the_same(install_driver):
    for capability, name in CHOSEN.items():
        install_driver(capability, name)
    report = inspect_plugins(CHOSEN, {}, Catalog.read())
    wire = json.loads(json.dumps(report.to_wire()))
    header, rows = report.table()
    assert wire["usable"] is True
    assert len(rows) == len(wire["plugins"])
    assert all(len(row) == len(header) for row in rows)
    chosen = [row for row in rows if row[2] == "chosen"]
    assert [row[1] for row in chosen] == list(CHOSEN.values())
    assert {row[6] for row in chosen} == {"fast"}


def test_the_table_says_why_and_what_to_do(install_driver):
    install_driver(Capability.DNS, "tdns", without="publish")
    _, rows = inspect_plugins(CHOSEN, {}, Catalog.read()).table()
    (row,) = [row for row in rows if row[1] == "tdns"]
    assert "it has no publish()" in row[-1]
    assert "kt-dns-tdns" in row[-1]
