"""What can be wrong with plugins, said once and completely: one fault a line, all of them in one error."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from kat_platform.errors import PluginError
from kat_platform.registry.catalog import Installed


class FaultKind(StrEnum):
    """The ways in which a plugin can be unusable; the values are stable."""

    MISSING = "missing"
    DUPLICATE = "duplicate"
    BROKEN = "broken"
    """It cannot be imported or constructed."""
    API_VERSION = "api-version"
    CONTRACT = "contract"
    """It does not have what its contract asks for."""
    CONFIGURATION = "configuration"


@dataclass(frozen=True, slots=True)
class PluginFault:
    """One reason why one plugin cannot be used: who, what, and what to do."""

    kind: FaultKind
    group: str
    name: str
    problem: str
    remedy: str
    distribution: str = ""
    version: str = ""
    entry_point: str = ""

    @classmethod
    def of(cls, entry: Installed, kind: FaultKind, problem: str, remedy: str) -> PluginFault:
        """Make the fault of an installed plugin."""
        origin = (entry.distribution, entry.version, f"{entry.name} = {entry.target}")
        return cls(kind, entry.group, entry.name, problem, remedy, *origin)

    def __str__(self) -> str:
        origin = f" from {self.distribution} {self.version} ({self.entry_point})" if self.distribution else ""
        return f"{self.group} {self.name}{origin}: {self.problem}\n    {self.remedy}"

    def to_wire(self) -> dict[str, str]:
        """Give the JSON form, as it stands in the error's ``details``."""
        return {
            "kind": self.kind.value,
            "group": self.group,
            "name": self.name,
            "distribution": self.distribution,
            "version": self.version,
            "entryPoint": self.entry_point,
            "problem": self.problem,
            "remedy": self.remedy,
        }


def refuse(faults: Sequence[PluginFault]) -> None:
    """Raise one ``PluginError`` that tells every fault; does nothing when there is none."""
    if faults:
        number = "1 fault" if len(faults) == 1 else f"{len(faults)} faults"
        lines = "\n".join(f"  - {fault}" for fault in faults)
        message = f"the configured plugins cannot be used, {number}:\n{lines}"
        raise PluginError(message, faults=[fault.to_wire() for fault in faults])
