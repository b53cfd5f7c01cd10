"""The contracts: one module a capability, no logic. ``docs/contracts`` has a page for each."""

from kat_platform.interfaces.auth import Auth
from kat_platform.interfaces.builder import Builder
from kat_platform.interfaces.dns import Dns
from kat_platform.interfaces.driver import (
    API_VERSION,
    Capability,
    CheckResult,
    Driver,
    DriverContext,
    DriverInfo,
    DriverStatus,
    Health,
)
from kat_platform.interfaces.network import Network
from kat_platform.interfaces.runtime import Runtime
from kat_platform.interfaces.scheduler import Scheduler
from kat_platform.interfaces.store import Store

CONTRACTS: dict[Capability, type] = {
    Capability.RUNTIME: Runtime,
    Capability.NETWORK: Network,
    Capability.STORE: Store,
    Capability.SCHEDULER: Scheduler,
    Capability.DNS: Dns,
    Capability.BUILDER: Builder,
    Capability.AUTH: Auth,
}
"""The Protocol each capability's driver must satisfy."""

__all__ = [
    "API_VERSION",
    "CONTRACTS",
    "Auth",
    "Builder",
    "Capability",
    "CheckResult",
    "Dns",
    "Driver",
    "DriverContext",
    "DriverInfo",
    "DriverStatus",
    "Health",
    "Network",
    "Runtime",
    "Scheduler",
    "Store",
]
