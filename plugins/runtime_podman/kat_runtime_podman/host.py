"""What the driver needs of a host, for ``kat-agent check``: looked at within seconds, changing nothing."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import shutil
from pathlib import Path
from typing import Final

from kat_platform.errors import HostNotReady
from kat_platform.interfaces.driver import CheckResult
from kat_runtime_podman import oci
from kat_runtime_podman.config import PodmanConfig

OLDEST: Final = (4, 3)
"""First version of Podman the driver was tried with."""
_FREE_WANTED: Final = 2 * 1024**3


async def check(config: PodmanConfig) -> tuple[CheckResult, ...]:
    """Give one line per need."""
    facts = oci.look()
    return (
        await _podman(),
        await _oci(config, facts),
        _program("conmon", "watches each container; without it Podman starts none", "conmon"),
        _program("setpriv", "ends Podman's service together with the agent", "util-linux"),
        CheckResult(
            "cgroups",
            True,
            f"cgroup v{facts.cgroup_version}: limits for memory and CPU can be set",
            required=False,
        ),
        _overlay(),
        _root(),
        _disk(),
    )


def version(text: str) -> tuple[int, int] | None:
    """Read ``podman version 4.3.1``."""
    match = re.search(r"(\d+)\.(\d+)", text)
    return (int(match[1]), int(match[2])) if match else None


async def _podman() -> CheckResult:
    remedy = "install podman 4.3 or later, e.g. 'apt install podman'"
    code, text = await _said("podman", "--version")
    found = version(text)
    if code != 0 or found is None:
        return CheckResult("podman", False, "podman is not installed or does not run", remedy)
    return CheckResult("podman", found >= OLDEST, text.strip(), "" if found >= OLDEST else remedy)


async def _oci(config: PodmanConfig, facts: oci.HostFacts) -> CheckResult:
    try:
        choice = oci.choose(config, facts)
    except HostNotReady as error:
        return CheckResult("OCI runtime", False, error.message, error.hint or "")
    code, text = await _said(choice.oci_runtime, "--version")
    first = text.splitlines()[0] if text else choice.oci_runtime
    works = code == 0
    return CheckResult(
        "OCI runtime",
        works,
        f"{first}, cgroups by {choice.cgroup_manager}" if works else f"{first} does not run",
        "" if works else f"reinstall {choice.oci_runtime}",
    )


async def _said(*words: str) -> tuple[int, str]:
    try:
        process = await asyncio.create_subprocess_exec(
            *words, stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
        )
    except OSError as error:
        return 127, str(error)
    try:
        async with asyncio.timeout(2):
            out, _ = await process.communicate()
    except TimeoutError:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()
        return 124, "no answer within 2 s"
    return process.returncode or 0, out.decode(errors="replace")


def _program(name: str, why: str, package: str) -> CheckResult:
    paths = ("/usr/libexec/podman", "/usr/lib/podman", "/usr/local/lib/podman")
    path = shutil.which(name) or next((f"{folder}/{name}" for folder in paths if Path(folder, name).exists()), None)
    if path is None:
        return CheckResult(name, False, f"{name} is missing: it {why}", f"install {package}")
    return CheckResult(name, True, path)


def _overlay() -> CheckResult:
    known = "overlay" in Path("/proc/filesystems").read_text()
    module = any(Path("/lib/modules", os.uname().release).glob("kernel/fs/overlayfs/*")) if not known else True
    return CheckResult(
        "overlay filesystem",
        known or module,
        "the kernel has it" if known or module else "the kernel lacks overlayfs",
        "" if known or module else "load the module 'overlay' or use a kernel that has it",
    )


def _root() -> CheckResult:
    root = os.geteuid() == 0
    return CheckResult(
        "root",
        root,
        "runs as root" if root else "does not run as root: containers cannot be attached to the network",
        "" if root else "run kat-agent as root",
    )


def _disk() -> CheckResult:
    place = next(path for path in (Path("/var/lib"), Path("/")) if path.exists())
    free = shutil.disk_usage(place).free
    enough = free >= _FREE_WANTED
    return CheckResult(
        "disk",
        enough,
        f"{free / 1024**3:.1f} GiB free below {place}",
        "" if enough else "images and logs need room: free at least 2 GiB",
        required=False,
    )
