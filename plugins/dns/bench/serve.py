"""Serves the benchmark's zone with the driver alone, until its standard input ends: ``serve.py WORKLOADS``."""

from __future__ import annotations

import asyncio
import sys
import tempfile
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

import structlog
from kat_dns.config import DnsConfig
from kat_dns.driver import KatDns

from kat_platform.interfaces.dns import DnsInstance, DnsNode, DnsPort, DnsView, DnsWorkload, ListenAddress
from kat_platform.interfaces.driver import DriverContext
from kat_platform.interfaces.network import TransportProtocol

VIRTUAL, CLUSTER = IPv4Address("10.101.0.1"), IPv4Address("10.100.2.2")


def view(workloads: int, serial: int = 1) -> DnsView:
    """Make a cluster of so many services with a virtual IP and two instances each."""
    made = tuple(
        DnsWorkload(
            f"web-{index}",
            "default",
            VIRTUAL + index,
            (DnsPort("http", TransportProtocol.TCP, 80, 8080),),
            tuple(DnsInstance(f"web-{index}-{one}", CLUSTER + index * 2 + one, True) for one in (0, 1)),
        )
        for index in range(workloads)
    )
    networks = IPv4Network("10.100.0.0/16"), IPv4Network("10.101.0.0/16")
    nodes = (DnsNode("n1", IPv4Address("10.100.0.1")),)
    return DnsView("kat.cluster.local", serial, made, nodes, networks, ("default",))


async def main(workloads: int) -> None:
    """Listen on a free port, say which, and wait for the end of the input."""
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
    with tempfile.TemporaryDirectory(prefix="kt-dns-") as folder:
        driver = KatDns(DnsConfig(), DriverContext("n1", Path(folder), Path(folder), "kt1"))
        await driver.start()
        (real,) = await driver.listen((ListenAddress(IPv4Address("127.0.0.1"), 0),))
        await driver.publish(view(workloads))
        print(real.port, flush=True)
        await asyncio.to_thread(sys.stdin.read)
        await driver.stop()


def run(workloads: int) -> None:
    """Run on uvloop where it is installed, as the agent does."""
    try:
        import uvloop
    except ImportError:
        asyncio.run(main(workloads))
    else:
        uvloop.run(main(workloads))


if __name__ == "__main__":
    run(int(sys.argv[1]))
