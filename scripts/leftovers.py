"""Tells what a test run left on the host, takes it away, and fails if there was anything.

``before`` prints what is there now; ``after FILE`` compares. Processes are known by KAT_TEST_RUN in their environment,
which every child inherits; mounts and files by their place below TMPDIR; network namespaces, interfaces and nftables
tables by the tests' prefix and by being new, so that a live KAT and other runs on the same host are left alone.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

PREFIX = os.environ.get("KAT_TEST_PREFIX", "kt")
"""What every name begins with that a test makes outside its folders; a test of this program has one of its own."""

GRACE_SECONDS = 3.0
"""How long processes of the run may take to end after the last test."""


def output(*command: str) -> str:
    """Run a command; what is not installed has nothing to tell."""
    if shutil.which(command[0]) is None:
        return ""
    return subprocess.run(command, capture_output=True, text=True, timeout=30).stdout


def namespaces() -> set[str]:
    """List the tests' named network namespaces."""
    folder = Path("/run/netns")
    return {path.name for path in folder.iterdir() if path.name.startswith(PREFIX)} if folder.exists() else set()


def interfaces() -> set[str]:
    """List the tests' interfaces in this namespace."""
    return {path.name for path in Path("/sys/class/net").iterdir() if path.name.startswith(PREFIX)}


def tables() -> set[str]:
    """List the tests' nftables tables in this namespace, as ``family name``."""
    lines = (line.removeprefix("table ").strip() for line in output("nft", "list", "tables").splitlines())
    return {line for line in lines if line.split(" ")[-1].startswith(PREFIX)}


def control_groups() -> set[str]:
    """List the tests' control groups."""
    root = Path("/sys/fs/cgroup")
    return {str(path) for pattern in (f"{PREFIX}*", f"*/{PREFIX}*") for path in root.glob(pattern) if path.is_dir()}


def run_folders() -> set[str]:
    """List the tests' folders for sockets."""
    return {str(path) for pattern in (f"kat/{PREFIX}*", f"kl-{PREFIX}*") for path in Path("/run").glob(pattern)}


def processes(run: str) -> set[str]:
    """List the processes of this run but for ourselves and our parents, as ``PID COMMAND``."""
    mark = f"KAT_TEST_RUN={run}".encode()
    ours = ancestors()
    found = set()
    for folder in Path("/proc").iterdir():
        if not folder.name.isdigit() or int(folder.name) in ours:
            continue
        try:
            if mark in (folder / "environ").read_bytes().split(b"\0"):
                command = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
                if command:  # a zombie has none, and is its parent's affair
                    found.add(f"{folder.name} {command[:160]}")
        except OSError:  # it ended meanwhile
            continue
    return found


def ancestors() -> set[int]:
    """Give our own process and those that started it."""
    found, pid = set(), os.getpid()
    while pid > 1 and pid not in found:
        found.add(pid)
        pid = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    return found


def mounts(folder: str) -> set[str]:
    """List what is mounted below a folder."""
    points = (line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines())
    return {point for point in points if point.startswith(f"{folder}/")}


NAMED: dict[str, tuple[Callable[[], set[str]], Callable[[str], list[str]]]] = {
    "network namespace": (namespaces, lambda name: ["ip", "netns", "delete", name]),
    "interface": (interfaces, lambda name: ["ip", "link", "delete", name]),
    "nftables table": (tables, lambda name: ["nft", "delete", "table", *name.split(" ")]),
    "control group": (control_groups, lambda path: ["rmdir", path]),
    "folder": (run_folders, lambda path: ["rm", "-rf", "--one-file-system", path]),
}
"""How each kind of thing is listed, and the command that takes one away."""


def end_processes(run: str) -> list[str]:
    """Wait for the run's processes to end, then end them; gives those that had to be ended."""
    deadline = time.monotonic() + GRACE_SECONDS
    while (left := processes(run)) and time.monotonic() < deadline:
        time.sleep(0.1)
    for line in left:
        try:
            os.kill(int(line.split(" ", 1)[0]), signal.SIGKILL)
        except ProcessLookupError:
            continue
    return sorted(left)


def main() -> int:
    """Print the state before, or compare with it and clear up; 1 if anything had been left."""
    if sys.argv[1] == "before":
        print(json.dumps({kind: sorted(listing()) for kind, (listing, _) in NAMED.items()}))
        return 0
    before = json.loads(Path(sys.argv[2]).read_text())
    left = [f"process {line}" for line in end_processes(os.environ["KAT_TEST_RUN"])]
    for point in sorted(mounts(os.environ["TMPDIR"]), reverse=True):
        left.append(f"mount {point}")
        subprocess.run(["umount", "--lazy", point], check=False)
    for kind, (listing, remove) in NAMED.items():
        for name in sorted(listing() - set(before[kind])):
            left.append(f"{kind} {name}")
            subprocess.run(remove(name), check=False)
    if left:
        print("left behind by the tests, now removed:", *(f"  {line}" for line in left), sep="\n", file=sys.stderr)
    else:
        print("    nothing was left behind")
    return 1 if left else 0


if __name__ == "__main__":
    sys.exit(main())
