"""Living beside a firewall that drops forwarded packets by default (Docker's, ufw's).

A packet must be accepted by every base chain, so accepting it in our own table does not help. Two rules in iptables'
FORWARD chain, tagged by a comment, let in what goes to or comes from a container of ours; our own table, which judges
it too, still refuses what it should. Nothing is touched while the policy is to accept.
"""

from __future__ import annotations

import asyncio
import shutil

import structlog

from kat_net_wireguard.names import Names

_log = structlog.get_logger(__name__)
_DEADLINE_SECONDS = 10.0


async def forward_rules() -> str:
    """List iptables' FORWARD chain as ``iptables -S`` writes it; empty where there is no iptables."""
    return (await _iptables("-S", "FORWARD"))[1]


def drops(rules: str) -> bool:
    """Tell from a listing whether forwarded packets are dropped by default. Pure."""
    return any(line.split() == ["-P", "FORWARD", "DROP"] for line in rules.splitlines())


def rules_of(names: Names) -> tuple[tuple[str, ...], ...]:
    """Write our rules as arguments of iptables, without the verb."""
    tagged = ("-m", "comment", "--comment", names.table, "-j", "ACCEPT")
    return tuple(("FORWARD", side, f"{names.veth_prefix}+", *tagged) for side in ("-i", "-o"))


async def open_forward(names: Names) -> bool:
    """Let the overlay's packets through where the default is to drop them; tell whether that is in force."""
    listing = await forward_rules()
    if not drops(listing):
        return False
    for rule in rules_of(names):
        if (await _iptables("-C", *rule))[0] != 0:
            code, output = await _iptables("-I", *rule)
            if code != 0:
                _log.warning("forward rule refused", output=output.strip())
                return False
            _log.info("forward rule added", rule=" ".join(rule))
    return True


async def close_forward(names: Names) -> None:
    """Take our rules away, as often as they are there."""
    if names.table not in await forward_rules():
        return
    for rule in rules_of(names):
        for _ in range(8):
            if (await _iptables("-D", *rule))[0] != 0:
                break


async def _iptables(*arguments: str) -> tuple[int, str]:
    program = shutil.which("iptables")
    if program is None:
        return 127, ""
    process = await asyncio.create_subprocess_exec(
        program,
        "-w",
        *arguments,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        async with asyncio.timeout(_DEADLINE_SECONDS):
            output, _ = await process.communicate()
    except TimeoutError:
        return 124, "iptables did not end in time"
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    return process.returncode or 0, output.decode(errors="replace")
