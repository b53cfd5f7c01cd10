"""The part of the kit that sends packets fails drivers whose packets go wrong."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Address

import pytest
from kat_net_wireguard.config import WireGuardConfig
from kat_net_wireguard.driver import WireGuardNetwork

from kat_platform.interfaces.network import NodeNetwork, ServiceTable
from kat_platform.testing.conformance.network import KIT, subject


class LeavesConnectionsHanging(WireGuardNetwork):
    async def reset_connections(self, addresses: frozenset[IPv4Address]) -> None:
        self._ready()


class SendsAllToOne(WireGuardNetwork):
    async def apply_services(self, table: ServiceTable) -> None:
        await super().apply_services(
            replace(table, ports=tuple(replace(port, backends=port.backends[:1]) for port in table.ports))
        )


class ForgetsIsolation(WireGuardNetwork):
    async def apply_services(self, table: ServiceTable) -> None:
        await super().apply_services(replace(table, isolated=()))


class KeepsOldFlows(WireGuardNetwork):
    @staticmethod
    def _forget_stale(network: NodeNetwork, allowed: object) -> None:
        return None


class StopsEverything(WireGuardNetwork):
    async def stop(self) -> None:
        await super().stop()
        await WireGuardNetwork(self._config, self._context).reset()


@pytest.mark.real
@pytest.mark.parametrize(
    ("driver", "caught_by"),
    [
        (LeavesConnectionsHanging, "vanished_is_reset"),
        (SendsAllToOne, "virtual_address_balances"),
        (ForgetsIsolation, "private_is_private"),
        (KeepsOldFlows, "udp_follows"),
        (StopsEverything, "traffic_outlives_the_process"),
        (StopsEverything, "attachments_outlive_the_process"),
    ],
    ids=lambda value: getattr(value, "__name__", value),
)
async def test_a_broken_dataplane_is_caught(driver: type[WireGuardNetwork], caught_by: str) -> None:
    check = next(check for check in KIT.checks if check.name == caught_by)
    outcome = await KIT.run_one(check, subject(lambda context: driver(WireGuardConfig(), context)))
    assert not outcome.passed, f"{driver.__name__} passed {caught_by}"
