"""``plugin check NAME``: an installed driver is tried by name, and a bad one fails the rules it breaks."""

from __future__ import annotations

import pytest

from kat_platform.errors import PluginError
from kat_platform.interfaces import Capability
from kat_platform.registry.catalog import Catalog
from kat_platform.testing.conformance import capabilities_named, run_for_driver

GOOD = """
from kat_platform.interfaces import DriverStatus, Health
from pydantic import Field

class Described(Config):
    size: int = Field(default=1, description="How large.")

async def status(self): return DriverStatus(Health.OK)

Driver.Config = Described
Driver.status = status
"""

BAD = """
class Messy(Driver):
    info = DriverInfo("mine", "1", Capability.BUILDER, capabilities={"when": object()})
    def __init__(self, config, context):
        (context.data_dir / "litter").write_text("")
        self.stopped = False
    async def stop(self):
        if self.stopped: raise RuntimeError("stopped twice")
        self.stopped = True
Driver = Messy
"""


async def test_a_good_driver_passes_every_rule(install_driver):
    install_driver(Capability.BUILDER, "mine", body=GOOD)
    heard = []
    outcomes = await run_for_driver(Capability.BUILDER, "mine", told=heard.append)
    assert [outcome.failure for outcome in outcomes if not outcome.passed] == []
    assert tuple(heard) == outcomes
    assert len(outcomes) >= 6


async def test_each_broken_rule_is_told(install_driver):
    install_driver(Capability.BUILDER, "mine", body=BAD)
    failed = {
        outcome.check: outcome.failure
        for outcome in await run_for_driver(Capability.BUILDER, "mine")
        if not outcome.passed
    }
    assert set(failed) == {
        "construction_is_quiet",
        "stop_is_safe",
        "status_always_answers",
        "capabilities_are_data",
        "settings_are_described",
    }
    assert "litter" in failed["construction_is_quiet"]
    assert "stopped twice" in failed["stop_is_safe"]


async def test_a_driver_that_cannot_be_loaded_is_told_as_on_start(install_driver):
    install_driver(Capability.BUILDER, "mine", without="build")
    with pytest.raises(PluginError, match="it has no build"):
        await run_for_driver(Capability.BUILDER, "mine")


def test_a_name_may_stand_for_several_capabilities(install_driver):
    install_driver(Capability.BUILDER, "mine")
    install_driver(Capability.DNS, "mine")
    assert capabilities_named("mine", Catalog.read()) == (Capability.DNS, Capability.BUILDER)
    assert capabilities_named("nobody", Catalog.read()) == ()
