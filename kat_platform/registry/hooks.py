"""Loads the hook plugins: every installed one takes part, unless ``pluginConfig.NAME.enabled`` is false.

A plugin that is installed but cannot take part stops the agent's start, as a broken driver does: it may be the one
whose admission rules keep the cluster safe. To go on without it, uninstall it or disable it.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from kat_platform.hooks.specs import GROUP
from kat_platform.hooks.types import HookInfo
from kat_platform.registry.announce import Announcer, plugin_problem
from kat_platform.registry.catalog import Catalog, Installed
from kat_platform.registry.contract import api_version_problem, config_problems
from kat_platform.registry.drivers import PluginConfig, PluginFailed, import_entry, validate_config
from kat_platform.registry.faults import FaultKind, PluginFault, refuse

ENABLED = "enabled"
"""Key of ``pluginConfig.NAME`` that KAT itself reads; the plugin's own schema never sees it."""


@dataclass(frozen=True, slots=True)
class HookPlugin:
    """What came of looking at one name of group ``kat.hooks``: takes part when enabled and without ``faults``."""

    entry: Installed
    enabled: bool
    info: HookInfo | None = None
    plugin: object | None = None
    faults: tuple[PluginFault, ...] = ()


def load_hooks(plugin_config: PluginConfig, catalog: Catalog) -> Announcer:
    """Import, verify and register every enabled hook plugin; raises one ``PluginError`` with every fault."""
    examined = examine_hooks(plugin_config, catalog)
    refuse([fault for one in examined for fault in one.faults])
    return announcer_of(examined)


def announcer_of(examined: tuple[HookPlugin, ...]) -> Announcer:
    """Make an announcer of those plugins that can take part; for ``katcall``, which does without the others."""
    return Announcer({one.entry.name: one.plugin for one in examined if one.plugin is not None})


def examine_hooks(plugin_config: PluginConfig, catalog: Catalog) -> tuple[HookPlugin, ...]:
    """Import and verify each enabled hook plugin; a disabled one is listed and not imported. Never raises."""
    return tuple(examine_hook(name, plugin_config.get(name, {}), catalog) for name in catalog.names(GROUP))


def examine_hook(name: str, section: Mapping[str, Any], catalog: Catalog) -> HookPlugin:
    """Import and verify one installed hook plugin, with its section of ``pluginConfig``. Never raises."""
    entries = catalog.named(GROUP, name)
    entry = entries[0]
    enabled = section.get(ENABLED, True)
    if not isinstance(enabled, bool):
        problem = f"pluginConfig.{name}.{ENABLED} must be true or false"
        return HookPlugin(entry, True, faults=(_fault(entry, FaultKind.CONFIGURATION, problem),))
    if not enabled:
        return HookPlugin(entry, False)
    if len(entries) > 1:
        origins = "; ".join(each.origin for each in entries)
        problem = f"{len(entries)} entry points offer this name: {origins}"
        return HookPlugin(entry, True, faults=(PluginFault.of(entry, FaultKind.DUPLICATE, problem, _remedy(entry)),))
    try:
        loaded = import_entry(entry)
        info = _info(entry, loaded)
        own = {key: value for key, value in section.items() if key != ENABLED}
        plugin = _construct(entry, loaded, own)
    except PluginFailed as failed:
        fault = failed.fault
        if fault.kind is FaultKind.BROKEN:
            fault = replace(fault, remedy=f"{fault.remedy}, or set pluginConfig.{name}.{ENABLED}: false")
        return HookPlugin(entry, True, faults=(fault,))
    problem_of_hooks = plugin_problem(name, plugin)
    if problem_of_hooks is not None:
        return HookPlugin(entry, True, info, faults=(_fault(entry, FaultKind.CONTRACT, problem_of_hooks),))
    return HookPlugin(entry, True, info, plugin)


def _info(entry: Installed, loaded: Any) -> HookInfo:
    info = getattr(loaded, "info", None)
    if not isinstance(info, HookInfo):
        problem = f"its info is {type(info).__name__}, not a HookInfo"
        raise PluginFailed(_fault(entry, FaultKind.CONTRACT, problem))
    if info.name != entry.name:
        problem = f"its info.name is '{info.name}', its entry point's name '{entry.name}'"
        raise PluginFailed(_fault(entry, FaultKind.CONTRACT, problem))
    version = api_version_problem(info.api_version)
    if version is not None:
        raise PluginFailed(_fault(entry, FaultKind.API_VERSION, version))
    return info


def _construct(entry: Installed, loaded: Any, section: Mapping[str, Any]) -> object:
    schema = getattr(loaded, "Config", None)
    if schema is None and section:
        problem = f"pluginConfig.{entry.name} has {', '.join(section)}, but the plugin takes no configuration"
        raise PluginFailed(_fault(entry, FaultKind.CONFIGURATION, problem))
    arguments: list[Any] = []
    if schema is not None:
        for problem in config_problems(loaded):
            raise PluginFailed(_fault(entry, FaultKind.CONTRACT, problem))
        config, faults = validate_config(entry, schema, section)
        if faults:
            raise PluginFailed(faults[0])
        arguments = [config]
    if not inspect.isclass(loaded):
        return loaded
    try:
        return loaded(*arguments)
    except Exception as error:  # a stranger's constructor may raise anything
        problem = f"it cannot be constructed: {type(error).__name__}: {error}"
        remedy = f"update or uninstall {entry.distribution}"
        raise PluginFailed(PluginFault.of(entry, FaultKind.BROKEN, problem, remedy)) from error


def _fault(entry: Installed, kind: FaultKind, problem: str) -> PluginFault:
    return PluginFault.of(entry, kind, problem, _remedy(entry))


def _remedy(entry: Installed) -> str:
    return f"update or uninstall {entry.distribution}, or set pluginConfig.{entry.name}.{ENABLED}: false"
