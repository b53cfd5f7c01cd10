"""Workshop: what all instances of a node share."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from ipaddress import IPv4Network
from pathlib import Path

from kat_platform.agent.journal import Journal
from kat_platform.interfaces.network import Network
from kat_platform.interfaces.runtime import Runtime
from kat_platform.model.event import EventType
from kat_platform.model.instance import InstanceStatus
from kat_platform.observability.metrics import Metrics


@dataclass(frozen=True, slots=True)
class Workshop:
    """What all workers of a node share: drivers, places and the ways to tell others."""

    runtime: Runtime
    network: Network
    journal: Journal
    node: str
    subnet: IPv4Network
    domain: str
    volume_base: Path
    boot_id: str
    slots: asyncio.Semaphore
    """Bounds how many containers are made or started at once."""
    clock: Callable[[], float]
    take_address: Callable[[str], str]
    """Give an instance's key an address; the same one each time until it is given back."""
    return_address: Callable[[str], None]
    on_status: Callable[[str, InstanceStatus], None]
    on_event: Callable[[str, str, str, EventType], None]
    """``(instance key, reason, message, type)``."""
    metrics: Metrics = field(default_factory=Metrics)
