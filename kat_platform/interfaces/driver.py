"""The contract under all contracts: what every driver has, whatever its capability.

A driver is constructed once per agent by the registry as ``factory(config, context)``: ``config`` is an
instance of the driver's own ``Config`` model (already validated), ``context`` a :class:`DriverContext`.
Construction must not do I/O. Then ``start`` is awaited once, the capability's own operations follow, and
``stop`` is awaited once. A driver may be stopped without having been started and stopped twice.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any, ClassVar, Protocol, runtime_checkable

from pydantic import BaseModel

API_VERSION = "1.0"
"""Version of the contracts in this package, ``MAJOR.MINOR``: a driver made for another major is refused."""


class Capability(StrEnum):
    """The nouns of the system: for each, exactly one driver is chosen by name in ``cluster.kat``."""

    RUNTIME = "runtime"
    NETWORK = "network"
    STORE = "store"
    SCHEDULER = "scheduler"
    DNS = "dns"
    BUILDER = "builder"
    AUTH = "auth"

    @property
    def group(self) -> str:
        """The entry-point group in which drivers of this capability announce themselves."""
        return f"kat.{self.value}"


@dataclass(frozen=True, slots=True)
class DriverInfo:
    """What a driver says of itself before it is constructed: identity, and capabilities as data."""

    name: str
    version: str
    capability: Capability
    api_version: str = API_VERSION
    capabilities: Mapping[str, Any] = field(default_factory=dict)
    """Optional powers as plain data, e.g. ``{"rootless": True}``; keys are listed in the capability's page in
    ``docs/contracts``. Unknown keys are shown and otherwise ignored."""
    summary: str = ""


class Health(StrEnum):
    """How a driver is: ``DEGRADED`` still works, with something a person should know."""

    OK = "ok"
    DEGRADED = "degraded"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class DriverStatus:
    """A driver's answer to "how are you?": cheap to make (no I/O beyond a local call, under 1 s)."""

    health: Health
    message: str = ""
    facts: Mapping[str, Any] = field(default_factory=dict)
    """Facts for ``describe`` and ``kat-agent check``, e.g. ``{"oci_runtime": "runc", "version": "4.3.1"}``."""


@dataclass(frozen=True, slots=True)
class DriverContext:
    """What a driver may use of its surroundings: folders of its own and the node's identity.

    ``data_dir`` outlives reboots, ``run_dir`` does not (it is emptied at boot). Both exist, are 0700 and belong
    to this driver alone. ``instance_tag`` is a short token (at most 6 characters, ``[a-z0-9]``), unique per KAT
    agent on this machine: put it in every name that is global to the machine (interfaces, cgroups, tables).
    """

    node_name: str
    data_dir: Path
    run_dir: Path
    instance_tag: str


@dataclass(frozen=True, slots=True)
class CheckResult:
    """One line of ``kat-agent check``: what was looked at, whether it will do, and what to do if not."""

    name: str
    ok: bool
    message: str
    remedy: str = ""
    required: bool = True
    """Whether a failure stops KAT from working (an error) or only makes it worse (a warning)."""


@runtime_checkable
class Driver(Protocol):
    """What the host may do with any driver. Every operation is safe to repeat."""

    info: ClassVar[DriverInfo]
    """Identity and capabilities; readable on the class, before construction."""

    Config: ClassVar[type[BaseModel]]
    """Schema of ``pluginConfig.NAME``; must forbid unknown keys. Every field has a default and a description."""

    def __init__(self, config: Any, context: DriverContext) -> None:
        """Keep the parts; no I/O."""

    async def start(self) -> None:
        """Make ready for work. Adopts whatever an earlier process of the same node left in place.

        Raises ``HostNotReady`` when the host lacks something, ``DriverError`` otherwise.
        """

    async def stop(self) -> None:
        """Let go of this process's resources. Must not touch what runs on its own (containers, interfaces)."""

    async def status(self) -> DriverStatus:
        """Tell how the driver is. Never raises."""


@runtime_checkable
class ChecksHost(Protocol):
    """A driver that can tell, without changing anything, whether this host will do."""

    @classmethod
    async def check_host(cls, config: Any) -> tuple[CheckResult, ...]:
        """Look at the host; at most 5 s; changes nothing. Called before construction."""


@runtime_checkable
class Resettable(Protocol):
    """A driver that made something on the host and can take all of it away again."""

    async def reset(self) -> None:
        """Remove everything this driver ever made on this host under this ``instance_tag``.

        Works without ``start`` and after a crash; idempotent. User volumes are not the driver's.
        """


@runtime_checkable
class Collects(Protocol):
    """A driver that can drop what is no longer wanted."""

    async def collect(self, valid: frozenset[str]) -> frozenset[str]:
        """Drop whatever of the driver's own belongs to no instance in ``valid``; return the ids dropped.

        Idempotent. What belongs to others (another KAT, another program) is never touched.
        """
