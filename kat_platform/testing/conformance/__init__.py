"""Conformance kits: the rules of each contract as checks that run against any driver, by name.

``katcall plugin check NAME`` runs :func:`run_for_driver`; a plugin's own tests run its kit under pytest, one test a
check.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from typing import Any

from kat_platform.interfaces.driver import Capability, Driver, DriverContext
from kat_platform.registry.catalog import Catalog
from kat_platform.registry.drivers import load_driver_class
from kat_platform.registry.faults import refuse
from kat_platform.registry.hooks import HookPlugin, examine_hook
from kat_platform.testing.conformance import driver as any_driver
from kat_platform.testing.conformance import hooks as any_hooks
from kat_platform.testing.conformance.kit import Kit, Outcome, Subject

KITS: Mapping[Capability, str] = {
    Capability.RUNTIME: "kat_platform.testing.conformance.runtime",
    Capability.NETWORK: "kat_platform.testing.conformance.network",
    Capability.STORE: "kat_platform.testing.conformance.store",
    Capability.SCHEDULER: "kat_platform.testing.conformance.scheduler",
    Capability.DNS: "kat_platform.testing.conformance.dns",
    Capability.AUTH: "kat_platform.testing.conformance.auth",
}
"""The module of each capability's kit: it has ``KIT`` and ``subject(factory)``. Imported when it is run.

A capability without one is tried with the rules of any driver alone.
"""

Factory = Callable[[DriverContext], Driver]
"""Constructs the driver under test in the context it is given."""


def kit_of(capability: Capability, factory: Factory) -> tuple[tuple[Kit[Any], Subject[Any]], ...]:
    """Give the kits a driver of a capability has to pass, each with what makes a driver for one check."""
    kits: list[tuple[Kit[Any], Subject[Any]]] = [(any_driver.KIT, any_driver.subject(factory))]
    if capability in KITS:
        module = importlib.import_module(KITS[capability])
        kits.append((module.KIT, module.subject(factory)))
    return tuple(kits)


async def run_for_driver(
    capability: Capability,
    name: str,
    *,
    catalog: Catalog | None = None,
    settings: Mapping[str, Any] | None = None,
    told: Callable[[Outcome], None] = lambda _: None,
) -> tuple[Outcome, ...]:
    """Run every check for an installed driver, in order; ``told`` hears of each outcome as it comes.

    ``settings`` are those of ``pluginConfig.NAME``; its defaults otherwise. Raises ``PluginError`` when the driver
    cannot even be loaded, and pydantic's ``ValidationError`` for wrong settings.
    """
    driver_class = load_driver_class(capability, name, catalog)
    config = driver_class.Config.model_validate(dict(settings or {}))
    outcomes: list[Outcome] = []
    for kit, subject in kit_of(capability, lambda context: driver_class(config, context)):
        for check in kit.checks:
            outcomes.append(await kit.run_one(check, subject))
            told(outcomes[-1])
    return tuple(outcomes)


async def run_for_hooks(
    name: str,
    *,
    catalog: Catalog | None = None,
    settings: Mapping[str, Any] | None = None,
    told: Callable[[Outcome], None] = lambda _: None,
) -> tuple[Outcome, ...]:
    """Run the checks of hooks for an installed hook plugin, as :func:`run_for_driver` does for a driver.

    Raises ``PluginError`` when the plugin could not take part at all, wrong settings included.
    """
    installed = catalog or Catalog.read()

    def examined() -> HookPlugin:
        found = examine_hook(name, settings or {}, installed)
        refuse(list(found.faults))
        return found

    examined()
    outcomes: list[Outcome] = []
    for check in any_hooks.KIT.checks:
        outcomes.append(await any_hooks.KIT.run_one(check, any_hooks.subject(lambda: examined().plugin)))
        told(outcomes[-1])
    return tuple(outcomes)


def capabilities_named(name: str, catalog: Catalog) -> tuple[Capability, ...]:
    """Tell for which capabilities a driver of this name is installed: what ``plugin check NAME`` may mean."""
    return tuple(capability for capability in Capability if catalog.named(capability.group, name))
