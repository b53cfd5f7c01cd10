"""Facts: what the machine is and has, read from the kernel. Blocking, but only small files."""

from __future__ import annotations

import fcntl
import os
import platform
import socket
import struct
from collections.abc import Mapping
from ipaddress import IPv4Address
from pathlib import Path
from typing import Final

from kat_platform.hooks.types import NodeFacts
from kat_platform.model.node import Capacity, Condition, NodeReport
from kat_platform.model.trust import NodeTrust

MAX_INSTANCES: Final = 250
RESERVED_MEMORY_LEAST: Final = 128 * 2**20
RESERVED_MEMORY_SHARE: Final = 20
"""The larger of 128 MiB and a twentieth of the memory is kept for the system and for KAT itself."""

DISK_LEAST: Final = 512 * 2**20
DISK_SHARE: Final = 50
"""DiskPressure when the less of 512 MiB and a fiftieth of the disk is all that is free."""

MEMORY_LEAST: Final = 64 * 2**20
SIOCGIFADDR: Final = 0x8915


def boot_id() -> str:
    """Give the id of the machine's present boot, as the kernel made it.

    ``KAT_BOOT_ID`` says otherwise: the nodes of a lab share one kernel, but each is switched on and off by itself.
    """
    given = os.environ.get("KAT_BOOT_ID")
    if given:
        return given
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


def memory() -> tuple[int, int]:
    """Give total and available memory in bytes."""
    values = {}
    for line in Path("/proc/meminfo").read_text().splitlines():
        name, _, rest = line.partition(":")
        values[name] = int(rest.split()[0]) * 1024
    return values["MemTotal"], values.get("MemAvailable", values["MemFree"])


def os_name() -> str:
    """Give the operating system's name, e.g. ``Debian GNU/Linux 12 (bookworm)``."""
    try:
        for line in Path("/etc/os-release").read_text().splitlines():
            if line.startswith("PRETTY_NAME="):
                return line.partition("=")[2].strip('"')
    except OSError:
        pass  # not every system has it
    return platform.system()


def interface_addresses() -> tuple[tuple[str, str], ...]:
    """Give ``(interface, IPv4 address)`` of each interface's first address."""
    found = []
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        for _, name in socket.if_nameindex():
            try:
                answer = fcntl.ioctl(probe.fileno(), SIOCGIFADDR, struct.pack("256s", name.encode()[:15]))
            except OSError:
                continue  # an interface without an IPv4 address
            found.append((name, socket.inet_ntoa(answer[20:24])))
    return tuple(found)


def underlay_addresses(exclude: frozenset[str]) -> tuple[str, ...]:
    """Give this machine's own IPv4 addresses, the one used towards the outside first.

    ``exclude`` are interfaces of KAT's.
    """
    found = [address for name, address in interface_addresses() if name != "lo" and name not in exclude]
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        first = _outward(probe)
    if first in found:
        found.remove(first)
        found.insert(0, first)
    return tuple(dict.fromkeys(found))


def _outward(probe: socket.socket) -> str:
    try:
        probe.connect(("192.0.2.1", 9))  # TEST-NET-1 (RFC 5737): nothing is sent, the kernel only chooses a route
    except OSError:
        return ""
    return str(probe.getsockname()[0])


def resolvers(own: frozenset[str]) -> tuple[tuple[str, int], ...]:
    """Give the name servers of the host as ``(address, port)``, without this node's own."""
    servers = []
    try:
        lines = Path("/etc/resolv.conf").read_text().splitlines()
    except OSError:
        return ()
    for line in lines:
        words = line.split()
        if len(words) >= 2 and words[0] == "nameserver" and words[1] not in own:
            try:
                IPv4Address(words[1])
            except ValueError:
                continue  # an IPv6 server
            servers.append((words[1], 53))
    return tuple(servers)


def node_report(
    *,
    data_path: Path,
    addresses: tuple[str, ...],
    public_key: str,
    listen_port: int,
    versions: Mapping[str, str],
    plugins: NodeFacts,
    extra: tuple[Condition, ...],
    images: tuple[str, ...],
    trust: NodeTrust | None = None,
) -> NodeReport:
    """Give the node's report, without a time: equal facts make an equal report."""
    total, available = memory()
    reserve = max(RESERVED_MEMORY_LEAST, total // RESERVED_MEMORY_SHARE)
    capacity = Capacity(cpu_millicores=1000 * (os.cpu_count() or 1), memory_bytes=total, instances=MAX_INSTANCES)
    allocatable = capacity.model_copy(update={"memory_bytes": max(0, total - reserve)})
    host = {"kat.dws.rip/arch": platform.machine(), "kat.dws.rip/os": platform.system().lower()}
    return NodeReport(
        capacity=capacity,
        allocatable=allocatable,
        addresses=addresses,
        public_key=public_key,
        listen_port=listen_port,
        versions={"kernel": platform.release(), "os": os_name(), "python": platform.python_version(), **versions},
        facts={**plugins.labels, **host},  # what KAT says of the host wins
        plugin_facts=dict(plugins.facts),
        conditions=(*_pressures(data_path, available), *extra),
        images=images,
        boot_id=boot_id(),
        trust=trust,
    )


def _pressures(data_path: Path, available: int) -> tuple[Condition, ...]:
    disk = os.statvfs(data_path)
    free, size = disk.f_bavail * disk.f_frsize, disk.f_blocks * disk.f_frsize
    tight = free < min(DISK_LEAST, size // DISK_SHARE)
    short = available < MEMORY_LEAST
    return (
        Condition(
            type="DiskPressure",
            status=tight,
            reason="DiskAlmostFull" if tight else "EnoughSpace",
            message=f"under {DISK_LEAST // 2**20} MiB are free for {data_path}" if tight else "",
        ),
        Condition(
            type="MemoryPressure",
            status=short,
            reason="MemoryAlmostUsedUp" if short else "EnoughMemory",
            message=f"under {MEMORY_LEAST // 2**20} MiB of memory are available" if short else "",
        ),
    )
