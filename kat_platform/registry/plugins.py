"""Loads everything a configuration asks for, drivers and hooks, or tells in one error why it cannot."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from kat_platform.interfaces.driver import Capability
from kat_platform.registry.announce import Announcer
from kat_platform.registry.catalog import Catalog
from kat_platform.registry.drivers import Contexts, Drivers, PluginConfig, load_drivers
from kat_platform.registry.hooks import announcer_of, examine_hooks


@dataclass(frozen=True, slots=True)
class Plugins:
    """What an agent works with: its drivers, constructed and not started, and the announcer of its hooks."""

    drivers: Drivers
    announcer: Announcer


def load_plugins(
    chosen: Mapping[Capability, str], plugin_config: PluginConfig, contexts: Contexts, catalog: Catalog
) -> Plugins:
    """Load chosen drivers and enabled hook plugins; raises one ``PluginError`` with every fault of all of them."""
    hooks = examine_hooks(plugin_config, catalog)
    faults = [fault for one in hooks for fault in one.faults]
    drivers = load_drivers(chosen, plugin_config, contexts, catalog, also=faults)
    return Plugins(drivers, announcer_of(hooks))
