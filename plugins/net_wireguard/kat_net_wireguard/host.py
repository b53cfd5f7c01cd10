"""``kat-agent check`` for the network: will this host carry the overlay? Changes nothing.

What the kernel can do is tried in a network namespace made for the purpose, which ends with its thread.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import re
import shutil
import socket
import subprocess
import threading
from dataclasses import dataclass
from pathlib import Path

from kat_net_wireguard import firewall, kernel, rtnetlink
from kat_net_wireguard.config import TunnelKind, WireGuardConfig
from kat_net_wireguard.names import Names
from kat_net_wireguard.netlink import NetlinkError
from kat_platform.interfaces.driver import CheckResult

_CLONE_NEWNET = 0x40000000
_PROBES = {
    "numgen and dnat maps": "meta l4proto tcp dnat ip to numgen inc mod 2 map { 0 : 10.0.0.1 . 80, 1 : 10.0.0.2 . 80 }",
    "jhash": "meta l4proto tcp dnat ip to jhash ip saddr mod 2 map { 0 : 10.0.0.1 . 80, 1 : 10.0.0.2 . 80 }",
    "fib": "fib daddr type local accept",
    "masquerade": "masquerade",
    "reject": "meta l4proto tcp reject with tcp reset",
    "notrack": "notrack",
    "connection tracking": "ct status dnat accept",
}
_CHAINS = {
    "masquerade": "type nat hook postrouting priority srcnat;",
    "reject": "type filter hook forward priority filter;",
    "notrack": "type filter hook output priority raw;",
    "connection tracking": "type filter hook forward priority filter;",
}
_DEFAULT_PORT = 51820
_FAST_SINCE = 2023


@dataclass(frozen=True, slots=True)
class Kernel:
    """What the kernel was seen to do."""

    missing: tuple[str, ...]
    wireguard: bool
    bridge: bool
    error: str = ""


async def check(config: WireGuardConfig) -> tuple[CheckResult, ...]:
    """Look at everything the driver needs or suffers from."""
    if os.geteuid() != 0:
        return (CheckResult("network", False, "not running as root", "run kat-agent as root"),)
    if shutil.which("nft") is None:
        return (CheckResult("nftables", False, "nft is not installed", "install the package nftables"),)
    seen = await asyncio.to_thread(try_kernel)
    return (
        _nftables(seen),
        _bridge(seen),
        *await _tunnel(config, seen),
        _port(),
        await _forwarding(config),
        _bridge_netfilter(),
    )


def try_kernel() -> Kernel:
    """Try rules and interfaces in a network namespace of their own."""
    found: list[Kernel] = []

    def inside() -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.unshare(_CLONE_NEWNET) != 0:
            found.append(Kernel((), False, False, f"no network namespaces: {os.strerror(ctypes.get_errno())}"))
            return
        missing = tuple(name for name, rule in _PROBES.items() if not _accepts(_CHAINS.get(name), rule))
        found.append(Kernel(missing, kernel.available(Names("probe")), _makes_bridge()))

    thread = threading.Thread(target=inside, name="try-kernel")
    thread.start()
    thread.join()
    return found[0] if found else Kernel((), False, False, "the trial ended early")


def _accepts(hook: str | None, rule: str) -> bool:
    script = f"table ip probe {{ chain trial {{ {hook or 'type nat hook prerouting priority dstnat;'}\n{rule}\n}}\n}}\n"
    tried = subprocess.run(["nft", "-c", "-f", "-"], input=script.encode(), capture_output=True, timeout=4, check=False)
    return tried.returncode == 0


def _makes_bridge() -> bool:
    with rtnetlink.open_here() as socket_here:
        try:
            rtnetlink.add_link(socket_here, Names("probe").bridge, "bridge")
        except NetlinkError:
            return False
    return True


def _nftables(seen: Kernel) -> CheckResult:
    if seen.error:
        return CheckResult("nftables", False, seen.error, "run on a kernel with network namespaces")
    if seen.missing:
        return CheckResult(
            "nftables",
            False,
            f"the kernel or nft lacks: {', '.join(seen.missing)}",
            "use a distribution's kernel with nf_tables (CONFIG_NFT_NUMGEN, NFT_HASH, NFT_FIB, NFT_NAT, NFT_REJECT)",
        )
    return CheckResult("nftables", True, "NAT, numgen, jhash, fib and reject work")


def _bridge(seen: Kernel) -> CheckResult:
    if seen.bridge:
        return CheckResult("bridge", True, "bridges can be made")
    return CheckResult("bridge", False, "the kernel cannot make bridges", "load the module bridge")


async def _tunnel(config: WireGuardConfig, seen: Kernel) -> list[CheckResult]:
    if seen.wireguard and config.tunnel is not TunnelKind.USERSPACE:
        return [CheckResult("wireguard", True, "carried by the kernel")]
    if config.tunnel is TunnelKind.KERNEL:
        return [CheckResult("wireguard", False, "the kernel has no WireGuard", "load the module or set tunnel: auto")]
    program = shutil.which(config.userspace_command)
    if program is None:
        remedy = "install the package wireguard-go, or a kernel with the wireguard module"
        message = f"no WireGuard in the kernel and no {config.userspace_command}"
        return [CheckResult("wireguard", False, message, remedy)]
    results = [CheckResult("wireguard", True, f"carried by {program}: the kernel has no WireGuard")]
    device = os.access("/dev/net/tun", os.R_OK | os.W_OK)
    results.append(
        CheckResult("tun", device, "/dev/net/tun is usable" if device else "no /dev/net/tun", "load the module tun")
    )
    asked = await asyncio.to_thread(subprocess.run, [program, "--version"], capture_output=True, timeout=4, check=False)
    if is_slow(asked.stdout.decode(errors="replace")):
        results.append(
            CheckResult(
                "wireguard-go",
                False,
                "this wireguard-go is from before 2023: one TCP stream over the overlay reaches about 0.4 Gbit/s, "
                "against 2 Gbit/s with a later one",
                "install wireguard-go of 2023 or later (Debian 13 has it) or a kernel with the wireguard module",
                required=False,
            )
        )
    return results


def is_slow(version: str) -> bool:
    """Tell from ``wireguard-go --version`` whether it predates segmentation offload. Pure; unknown is not slow."""
    dated = re.search(r"(?<!\d)0\.0\.(20\d\d)\d{4}", version)
    return dated is not None and int(dated[1]) < _FAST_SINCE


def _port() -> CheckResult:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.bind(("0.0.0.0", _DEFAULT_PORT))
        except OSError as error:
            message = f"UDP port {_DEFAULT_PORT} is taken ({error.strerror})"
            return CheckResult("wireguard port", False, message, "free it or set wireguardPort", required=False)
    return CheckResult("wireguard port", True, f"UDP port {_DEFAULT_PORT} is free", required=False)


async def _forwarding(config: WireGuardConfig) -> CheckResult:
    if not firewall.drops(await firewall.forward_rules()):
        return CheckResult("forwarding", True, "no firewall drops forwarded packets by default", required=False)
    if config.open_forward:
        message = "a firewall (Docker's or ufw's) drops forwarded packets; tagged rules will let the overlay's through"
        return CheckResult("forwarding", True, message, required=False)
    return CheckResult(
        "forwarding",
        False,
        "iptables drops forwarded packets by default and openForward is off: containers will reach nothing",
        "set openForward, or accept what goes in and out of kv+ interfaces in FORWARD (DOCKER-USER with Docker)",
        required=False,
    )


def _bridge_netfilter() -> CheckResult:
    path = Path("/proc/sys/net/bridge/bridge-nf-call-iptables")
    state = path.read_text().strip() if path.exists() else "absent"
    return CheckResult("bridge netfilter", True, f"{state}; containers are routed, not bridged, so either will do")
