"""Loads the driver that was chosen for each capability. The only module that knows stevedore.

stevedore imports what our catalog lists: its own list comes from a cache on disk that can be stale, and lacks the
distributions' names. It must not construct anything either: a driver is made with its validated configuration and its
context, and what goes wrong is collected over all drivers before anyone is told.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import EntryPoint
from typing import Any, cast

from pydantic import BaseModel, ValidationError
from stevedore.driver import DriverManager

from kat_platform.interfaces import (
    CONTRACTS,
    Auth,
    Builder,
    Capability,
    Dns,
    Driver,
    DriverContext,
    Network,
    Runtime,
    Scheduler,
    Store,
)
from kat_platform.registry.catalog import GROUPS, Catalog, Installed, nearest
from kat_platform.registry.contract import api_version_problem, config_problems, info_problems, method_problems
from kat_platform.registry.faults import FaultKind, PluginFault, refuse

Contexts = Callable[[Capability, str], DriverContext]
"""Makes the context of the driver of a capability and name."""

PluginConfig = Mapping[str, Mapping[str, Any]]
"""``pluginConfig`` of ``cluster.kat``: settings by plugin name."""


@dataclass(frozen=True, slots=True)
class Drivers:
    """The chosen drivers, one for each capability: constructed, not started."""

    runtime: Runtime
    network: Network
    store: Store
    scheduler: Scheduler
    dns: Dns
    builder: Builder
    auth: Auth

    def all(self) -> tuple[tuple[Capability, Driver], ...]:
        """Give every driver with its capability, in the order of :class:`Capability`."""
        return tuple((capability, cast(Driver, getattr(self, capability.value))) for capability in Capability)


@dataclass(frozen=True, slots=True)
class Usable:
    """A driver that was imported and verified, and its validated configuration: all that construction takes."""

    entry: Installed
    driver_class: type[Driver]
    config: BaseModel


@dataclass(frozen=True, slots=True)
class Examined:
    """What came of looking at one driver without constructing it: ``usable``, or the ``faults`` against it."""

    capability: Capability
    name: str
    entry: Installed | None = None
    usable: Usable | None = None
    faults: tuple[PluginFault, ...] = ()


def load_drivers(
    chosen: Mapping[Capability, str],
    plugin_config: PluginConfig,
    contexts: Contexts,
    catalog: Catalog,
    *,
    also: Sequence[PluginFault] = (),
) -> Drivers:
    """Import, verify and construct the driver chosen for each capability; drivers nobody chose are not imported.

    Raises one ``PluginError`` with every fault of every driver and of ``plugin_config``, and those found elsewhere and
    given as ``also``; nothing is constructed unless there is no fault.
    """
    examined = [examine(capability, chosen.get(capability, ""), plugin_config, catalog) for capability in Capability]
    faults = [fault for one in examined for fault in one.faults]
    refuse([*faults, *also, *config_faults(chosen, plugin_config, catalog)])
    made: dict[str, Any] = {}
    for one in examined:
        try:
            if one.usable is not None:
                context = contexts(one.capability, one.name)
                made[one.capability.value] = _construct(one.capability, one.usable, context)
        except PluginFailed as failed:
            faults.append(failed.fault)
    refuse(faults)
    return Drivers(**made)


def load_driver_class(capability: Capability, name: str, catalog: Catalog | None = None) -> type[Driver]:
    """Import and verify one driver by name, whether it is chosen or not; raises ``PluginError`` with every fault."""
    examined = examine(capability, name, {}, catalog or Catalog.read())
    refuse(examined.faults)
    return cast(Usable, examined.usable).driver_class


def examine(capability: Capability, name: str, plugin_config: PluginConfig, catalog: Catalog) -> Examined:
    """Find, import and verify one driver and validate its configuration; never raises."""
    entry, fault = _find(capability, name, catalog)
    if entry is None:
        return Examined(capability, name, faults=() if fault is None else (fault,))
    try:
        loaded = import_entry(entry)
    except PluginFailed as failed:
        return Examined(capability, name, entry, faults=(failed.fault,))
    faults = _class_faults(entry, loaded, capability)
    if faults:
        return Examined(capability, name, entry, faults=tuple(faults))
    config, faults = validate_config(entry, loaded.Config, plugin_config.get(name, {}))
    usable = None if config is None else Usable(entry, loaded, config)
    return Examined(capability, name, entry, usable, tuple(faults))


def validate_config(
    entry: Installed, schema: type[BaseModel], section: Mapping[str, Any]
) -> tuple[BaseModel | None, list[PluginFault]]:
    """Validate ``pluginConfig.NAME`` by the plugin's own schema. Values are never shown: they may be secrets."""
    try:
        return schema.model_validate(dict(section)), []
    except ValidationError as error:
        return None, [_config_fault(entry, schema, each) for each in error.errors(include_input=False)]
    except Exception as error:  # a stranger's validator may raise anything
        problem = f"pluginConfig.{entry.name} cannot be validated: {type(error).__name__} in its schema"
        return None, [PluginFault.of(entry, FaultKind.BROKEN, problem, _update(entry))]


def config_faults(chosen: Mapping[Capability, str], plugin_config: PluginConfig, catalog: Catalog) -> list[PluginFault]:
    """Tell which sections of ``pluginConfig`` belong to no plugin, or to two chosen drivers at once."""
    known = {name for group in GROUPS for name in catalog.names(group)} | set(chosen.values())
    faults = []
    for name in plugin_config:
        owners = [capability for capability, driver in chosen.items() if driver == name]
        if name not in known:
            near = nearest(name, known)
            remedy = f"did you mean pluginConfig.{near}?" if near else f"remove it, or install the plugin '{name}'"
            problem = "no installed plugin has this name"
            faults.append(PluginFault(FaultKind.CONFIGURATION, "pluginConfig", name, problem, remedy))
        elif len(owners) > 1 and plugin_config[name]:
            problem = f"{len(owners)} chosen drivers have this name ({', '.join(owners)})"
            remedy = "remove the section, or choose drivers with different names"
            faults.append(PluginFault(FaultKind.CONFIGURATION, "pluginConfig", name, problem, remedy))
    return faults


class PluginFailed(Exception):
    """A plugin could not be imported or constructed; carries the fault to report."""

    def __init__(self, fault: PluginFault) -> None:
        super().__init__(fault.problem)
        self.fault = fault


def import_entry(entry: Installed) -> Any:
    """Import what an entry point names, through stevedore; raises :class:`PluginFailed`."""
    try:
        return _ListedDriver(entry).driver
    except (Exception, SystemExit) as error:  # a stranger's module may raise anything, or try to exit, on import
        problem = f"it cannot be imported: {_describe(error)}"
        remedy = f"repair or reinstall {entry.distribution} (python -c 'import {entry.entry_point.module}' shows more)"
        raise PluginFailed(PluginFault.of(entry, FaultKind.BROKEN, problem, remedy)) from error


class _ListedDriver(DriverManager[Any]):
    """stevedore's loader, confined to one entry point of our catalog."""

    def __init__(self, entry: Installed) -> None:
        self._listed = entry.entry_point  # before super().__init__, which loads
        super().__init__(namespace=entry.group, name=entry.name, invoke_on_load=False)

    def list_entry_points(self) -> list[EntryPoint]:
        """Give stevedore our one entry point instead of its cached list."""
        return [self._listed]


def _construct(capability: Capability, usable: Usable, context: DriverContext) -> object:
    entry = usable.entry
    try:
        driver: object = usable.driver_class(usable.config, context)
    except Exception as error:  # a stranger's constructor may raise anything
        problem = f"it cannot be constructed: {_describe(error)}"
        remedy = f"report this to the makers of {entry.distribution}: construction must not fail or do I/O"
        raise PluginFailed(PluginFault.of(entry, FaultKind.BROKEN, problem, remedy)) from error
    if not isinstance(driver, CONTRACTS[capability]):
        problem = f"it has not every attribute of the contract {CONTRACTS[capability].__name__}"
        raise PluginFailed(PluginFault.of(entry, FaultKind.CONTRACT, problem, _update(entry)))
    return driver


def _find(capability: Capability, name: str, catalog: Catalog) -> tuple[Installed | None, PluginFault | None]:
    group = capability.group
    if not name:
        remedy = f"name one under plugins.{capability} in cluster.kat: {_choices(catalog.names(group))}"
        return None, PluginFault(FaultKind.MISSING, group, "(none)", f"no {capability} driver is chosen", remedy)
    entries = catalog.named(group, name)
    if not entries:
        near = nearest(name, catalog.names(group))
        offer = f"did you mean '{near}'? " if near else ""
        remedy = f"{offer}install a distribution that offers it, or choose from: {_choices(catalog.names(group))}"
        return None, PluginFault(FaultKind.MISSING, group, name, "no installed distribution offers it", remedy)
    if len(entries) > 1:
        origins = "; ".join(entry.origin for entry in entries)
        remedy = f"uninstall all but one of: {', '.join(sorted({entry.distribution for entry in entries}))}"
        problem = f"{len(entries)} entry points offer this name: {origins}"
        return None, PluginFault(FaultKind.DUPLICATE, group, name, problem, remedy)
    return entries[0], None


def _class_faults(entry: Installed, loaded: Any, capability: Capability) -> list[PluginFault]:
    if not isinstance(loaded, type):
        problem = f"its entry point names a {type(loaded).__name__}, not a class"
        return [PluginFault.of(entry, FaultKind.CONTRACT, problem, _update(entry))]
    problems = list(info_problems(loaded, entry.name, capability))
    version = None if problems else api_version_problem(cast(type[Driver], loaded).info.api_version)
    if version is not None:
        # The contract of another version has another form: what else is missing would only mislead.
        remedy = f"install a version of {entry.distribution} made for this KAT"
        return [PluginFault.of(entry, FaultKind.API_VERSION, version, remedy)]
    problems += [*config_problems(loaded), *method_problems(loaded, capability)]
    return [PluginFault.of(entry, FaultKind.CONTRACT, problem, _update(entry)) for problem in problems]


def _config_fault(entry: Installed, schema: type[BaseModel], error: Any) -> PluginFault:
    where = ".".join(str(part) for part in error["loc"])
    path = f"pluginConfig.{entry.name}.{where}" if where else f"pluginConfig.{entry.name}"
    problem = f"{path}: {error['msg']}"
    keys = [field.alias or name for name, field in schema.model_fields.items()]
    if error["type"] == "extra_forbidden":
        near = nearest(where, keys)
        problem = f"{path}: there is no such key{f', did you mean {near!r}?' if near else ''}"
    return PluginFault.of(entry, FaultKind.CONFIGURATION, problem, f"valid keys: {_choices(keys)}")


def _choices(names: tuple[str, ...] | list[str]) -> str:
    return ", ".join(names) or "(none)"


def _update(entry: Installed) -> str:
    return f"update {entry.distribution}, or choose another driver; 'katcall plugin check {entry.name}' shows more"


def _describe(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
