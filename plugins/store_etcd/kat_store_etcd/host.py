"""What the store needs of the host, and running etcd's tools."""

from __future__ import annotations

import asyncio
import re
import shutil
from pathlib import Path

from kat_platform.errors import DriverError, HostNotReady
from kat_platform.interfaces.driver import CheckResult
from kat_store_etcd.config import EtcdConfig
from kat_store_etcd.flags import base_environment

OLDEST = (3, 4, 0)
FREE_MIB = 512
"""Room etcd wants: two segments of its log of 64 MiB, a snapshot, the database."""


def find(program: str) -> str | None:
    """Find a program in PATH, or where Debian puts it."""
    return shutil.which(program) or shutil.which(program, path=base_environment()["PATH"])


async def run(*argv: str, timeout: float = 10.0, cwd: Path | None = None, check: bool = False) -> str:
    """Run a program to its end and give its output; with ``check`` a failure is ``DriverError``."""
    process = await asyncio.create_subprocess_exec(
        *argv,
        cwd=cwd,
        env=base_environment(),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        output, _ = await asyncio.wait_for(process.communicate(), timeout)
    except (TimeoutError, asyncio.CancelledError):
        process.kill()
        await process.wait()
        raise
    text = output.decode(errors="replace")
    if check and process.returncode:
        raise DriverError(f"{argv[0]} failed: {text.strip()[-500:]}", driver="etcd", operation=Path(argv[0]).name)
    return text


async def version(binary: str) -> tuple[int, ...]:
    """Ask etcd for its version; empty when it does not say."""
    try:
        found = re.search(r"etcd Version: (\d+)\.(\d+)\.(\d+)", await run(binary, "--version", timeout=5))
    except (OSError, TimeoutError):
        return ()
    return tuple(map(int, found.groups())) if found else ()


def restorer() -> str:
    """Find the program that restores snapshots: etcdutl from 3.5 on, etcdctl before."""
    found = find("etcdutl") or find("etcdctl")
    if found is None:
        raise HostNotReady("neither etcdutl nor etcdctl is installed", hint="install the package etcd-client")
    return found


async def check_host(config: EtcdConfig) -> tuple[CheckResult, ...]:
    """Look whether this host can run the store."""
    if config.external:
        return (_files(config),)
    binary = find(config.binary)
    if binary is None:
        return (
            CheckResult("etcd", False, f"{config.binary} is not installed", "install the package etcd-server"),
            _tools(),
        )
    found = await version(binary)
    text = ".".join(map(str, found)) or "unknown"
    results = [
        CheckResult(
            "etcd", found >= OLDEST, f"{binary}, version {text}", "" if found >= OLDEST else "needs 3.4 or newer"
        ),
        _tools(),
    ]
    if shutil.which("setpriv") is None:
        results.append(
            CheckResult(
                "setpriv",
                False,
                "setpriv is not installed: etcd may outlive a killed agent until its next start",
                "install the package util-linux",
                required=False,
            )
        )
    return (*results, _disk(Path("/var/lib")))


def _tools() -> CheckResult:
    name = find("etcdutl") or find("etcdctl")
    if name is None:
        return CheckResult(
            "etcdctl",
            False,
            "neither etcdutl nor etcdctl is installed: backups could not be restored",
            "install the package etcd-client",
            required=False,
        )
    return CheckResult("etcdctl", True, name, required=False)


def _disk(path: Path) -> CheckResult:
    free = shutil.disk_usage(path).free // (1024 * 1024)
    return CheckResult(
        "store disk",
        free >= FREE_MIB,
        f"{free} MiB free under {path}",
        "" if free >= FREE_MIB else f"the store wants {FREE_MIB} MiB",
        required=False,
    )


def _files(config: EtcdConfig) -> CheckResult:
    named = (config.ca_file, config.cert_file, config.key_file)
    missing = [name for name in named if name and not Path(name).is_file()]
    if missing:
        return CheckResult("etcd", False, f"{', '.join(missing)} cannot be read", "correct pluginConfig.etcd")
    return CheckResult("etcd", True, f"run elsewhere, at {', '.join(config.endpoints)}")
