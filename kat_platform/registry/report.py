"""What is installed, what is chosen, what is refused and why: the data behind ``katcall plugin ls``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from kat_platform.hooks.specs import GROUP as HOOKS_GROUP
from kat_platform.interfaces.driver import API_VERSION, Capability
from kat_platform.registry.catalog import Catalog, Installed
from kat_platform.registry.drivers import Examined, PluginConfig, config_faults, examine
from kat_platform.registry.faults import PluginFault
from kat_platform.registry.hooks import HookPlugin, examine_hooks


class PluginState(StrEnum):
    """What became of a plugin."""

    CHOSEN = "chosen"
    """Named in the configuration (or an enabled hook plugin), and usable."""
    INSTALLED = "installed"
    """There, not chosen, and not imported: nothing more is known of it."""
    REFUSED = "refused"
    """Chosen, and unusable."""


@dataclass(frozen=True, slots=True)
class PluginRow:
    """One plugin: where it comes from, what it says of itself, and what became of it."""

    group: str
    name: str
    state: PluginState
    distribution: str = ""
    version: str = ""
    entry_point: str = ""
    api_version: str = ""
    """Empty while it was not imported."""
    capabilities: Mapping[str, Any] = field(default_factory=dict)
    summary: str = ""
    faults: tuple[PluginFault, ...] = ()

    def to_wire(self) -> dict[str, Any]:
        """Give the JSON form."""
        return {
            "group": self.group,
            "name": self.name,
            "state": self.state.value,
            "distribution": self.distribution,
            "version": self.version,
            "entryPoint": self.entry_point,
            "apiVersion": self.api_version,
            "capabilities": dict(self.capabilities),
            "summary": self.summary,
            "faults": [fault.to_wire() for fault in self.faults],
        }


@dataclass(frozen=True, slots=True)
class Report:
    """Every plugin of every group, and faults that belong to none (sections of ``pluginConfig`` without an owner)."""

    rows: tuple[PluginRow, ...]
    faults: tuple[PluginFault, ...] = ()

    @property
    def usable(self) -> bool:
        """Whether an agent would start with this choice."""
        return not self.faults and not any(row.faults for row in self.rows)

    def to_wire(self) -> dict[str, Any]:
        """Give the JSON form, as ``/v1alpha1/plugins`` and ``katcall plugin ls -o json`` give it."""
        return {
            "apiVersion": API_VERSION,
            "usable": self.usable,
            "plugins": [row.to_wire() for row in self.rows],
            "faults": [fault.to_wire() for fault in self.faults],
        }

    def table(self) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
        """Give header and rows of the table for people."""
        header = ("KIND", "NAME", "STATE", "VERSION", "API", "DISTRIBUTION", "CAPABILITIES", "WHY")
        rows = [_cells(row) for row in self.rows]
        rows += [("pluginConfig", fault.name, "refused", "", "", "", "", _why(fault)) for fault in self.faults]
        return header, rows


def inspect_plugins(chosen: Mapping[Capability, str], plugin_config: PluginConfig, catalog: Catalog) -> Report:
    """Look at everything installed under a choice of drivers; imports what is chosen, and nothing else."""
    rows: list[PluginRow] = []
    for capability in Capability:
        name = chosen.get(capability, "")
        rows += _driver_rows(examine(capability, name, plugin_config, catalog), catalog.group(capability.group))
    for hook in examine_hooks(plugin_config, catalog):
        rows += _hook_rows(hook, catalog.named(HOOKS_GROUP, hook.entry.name))
    return Report(tuple(rows), tuple(config_faults(chosen, plugin_config, catalog)))


def _driver_rows(examined: Examined, installed: tuple[Installed, ...]) -> list[PluginRow]:
    mine = [entry for entry in installed if entry.name == examined.name]
    rows = [_row(entry, PluginState.INSTALLED) for entry in installed if entry.name != examined.name]
    if examined.usable is not None:
        info = examined.usable.driver_class.info
        known = {"api_version": info.api_version, "capabilities": info.capabilities, "summary": info.summary}
        rows.append(_row(examined.usable.entry, PluginState.CHOSEN, **known))
    elif mine:
        rows += [_row(entry, PluginState.REFUSED, faults=examined.faults) for entry in mine]
    else:
        group = examined.capability.group
        rows.append(PluginRow(group, examined.name or "(none)", PluginState.REFUSED, faults=examined.faults))
    return sorted(rows, key=lambda row: (row.state != PluginState.CHOSEN, row.name, row.distribution))


def _hook_rows(hook: HookPlugin, installed: tuple[Installed, ...]) -> list[PluginRow]:
    if hook.faults:
        return [_row(entry, PluginState.REFUSED, faults=hook.faults) for entry in installed]
    if hook.info is None:
        return [_row(entry, PluginState.INSTALLED, summary="disabled by its configuration") for entry in installed]
    known = {"api_version": hook.info.api_version, "summary": hook.info.summary}
    return [_row(hook.entry, PluginState.CHOSEN, **known)]


def _row(entry: Installed, state: PluginState, **known: Any) -> PluginRow:
    origin = (entry.distribution, entry.version, entry.target)
    return PluginRow(entry.group, entry.name, state, *origin, **known)


def _cells(row: PluginRow) -> tuple[str, ...]:
    powers = ", ".join(name if value is True else f"{name}={value}" for name, value in row.capabilities.items())
    why = "; ".join(_why(fault) for fault in row.faults)
    kind = row.group.removeprefix("kat.")
    return (kind, row.name, row.state.value, row.version, row.api_version, row.distribution, powers, why)


def _why(fault: PluginFault) -> str:
    return f"{fault.problem} ({fault.remedy})"
