"""The order in which an agent of the control plane starts its parts."""

from __future__ import annotations

import asyncio
from ipaddress import IPv4Address
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from kat_platform.agent import daemon as daemon_module
from kat_platform.agent.daemon import Daemon
from kat_platform.agent.local import LocalNode, Membership, Places, save_node
from kat_platform.model.cluster import ClusterConfiguration
from kat_platform.model.meta import Metadata
from kat_platform.model.node import NodeRole


class Parts:
    """Stand-ins for all that the agent starts; they write down when each is turned to."""

    def __init__(self) -> None:
        self.turns: list[str] = []
        self.info = SimpleNamespace(name="store", version="1")

    async def start(self) -> None:
        self.turns.append("the store starts")

    async def overlay_up(self) -> IPv4Address:
        self.turns.append("the overlay is up")
        return IPv4Address("10.100.0.1")

    def look_now(self) -> None:
        self.turns.append("the node looks at itself")

    async def prepare(self) -> None:
        self.turns.append("the member is prepared")

    async def complete(self) -> None:
        self.turns.append("the member is complete")

    async def run(self, listening: asyncio.Event) -> None:
        self.turns.append("the control plane runs")
        listening.set()

    async def follow_turns(self, store: object) -> None:
        """End at once, as the others do."""

    def nothing(self, *_: object) -> None:
        """Take what is given."""

    use_keyring = store_starts = nothing


async def test_a_node_is_looked_at_anew_as_soon_as_its_store_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it reported before said that the store does not run: nobody is to wait for the next report to learn more."""
    node = LocalNode(
        cluster_id="kt",
        node_name="n1",
        role=NodeRole.CONTROL_PLANE,
        tag="kt0",
        configuration=ClusterConfiguration(metadata=Metadata(name="cluster")),
        membership=Membership.VOTER,
    )
    save_node(Places(tmp_path), node)
    parts = Parts()
    for name in ("StoreMember", "ControlPlane"):
        monkeypatch.setattr(daemon_module, name, lambda *_: parts)
    monkeypatch.setattr(daemon_module.Keyring, "load", parts.nothing)
    plugins: Any = SimpleNamespace(drivers=SimpleNamespace(store=parts), announcer=None)
    anyone: Any = parts
    await Daemon(tmp_path)._control(plugins, anyone, anyone, anyone, anyone, [])
    assert parts.turns == [
        "the overlay is up",
        "the member is prepared",
        "the store starts",
        "the member is complete",
        "the node looks at itself",
        "the control plane runs",
    ]
