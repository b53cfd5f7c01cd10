"""Machine: one machine of a lab, and what can happen to it: power on and off, a crash, a freeze."""

from __future__ import annotations

import ctypes
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Final

from kat_platform.errors import Conflict, KatError, TimedOut, Unavailable
from kat_platform.lab import disk, processes, wires
from kat_platform.lab.home import Home
from kat_platform.lab.plan import Lab, LabNode
from kat_platform.lab.shell import inside

STOP_SECONDS: Final = 20.0
ENTER_SECONDS: Final = 5.0
"""How long a new agent may take to be in its machine."""
_AGENT: Final = "kat_platform.cli.agent_main"
_DETACH: Final = 2  # MNT_DETACH, umount(2)


class Part(StrEnum):
    """What of a machine something happens to."""

    ALL = "all"
    AGENT = "agent"
    STORE = "store"


@dataclass(frozen=True, slots=True)
class Machine:
    """One machine; every operation may be repeated."""

    home: Home
    lab: Lab
    node: LabNode

    @property
    def namespace(self) -> str:
        """Its network namespace."""
        return self.lab.namespace(self.node)

    @property
    def environment(self) -> dict[str, str]:
        """Environment of everything that runs on it."""
        left_out = () if self.node.python is None else ("PYTHONPATH",)  # which is katcall's, not another installation's
        return {
            **{name: value for name, value in os.environ.items() if name not in left_out},
            "KAT_RUN_PATH": str(self.home.runs),
            "KAT_BOOT_ID": f"{self.lab.name}-{self.node.name}-{self.node.boots}",
            "KAT_CONFIG": str(self.home.context),
        }

    def agent_command(self, *arguments: str) -> tuple[str, ...]:
        """Give the command that runs ``kat-agent`` with these arguments on this machine."""
        # -P: what lies in the current folder is no part of KAT
        return inside(self.namespace, self.node.python or sys.executable, "-P", "-m", _AGENT, *arguments)

    def run_agent(self, *arguments: str, timeout: float = 120.0) -> str:
        """Run ``kat-agent`` to its end and give its output; raises ``KatError`` with its words."""
        try:
            done = subprocess.run(
                self.agent_command(*arguments),
                env=self.environment,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=timeout,
                check=False,
                start_new_session=True,
            )
        except subprocess.TimeoutExpired:
            raise TimedOut(f"kat-agent {arguments[0]} on {self.node.name} did not end within {timeout:g} s") from None
        if done.returncode != 0:
            words = [line for line in done.stderr.strip().splitlines() if not line.startswith("{")]
            raise KatError(f"kat-agent {arguments[0]} on {self.node.name} failed: {' '.join(words)[-600:]}")
        return done.stdout

    # --- power ----------------------------------------------------------------------------------------------

    def plug_in(self) -> None:
        """Give it its namespace, cable and disk. Idempotent."""
        wires.plug_in(self.lab, self.node)
        disk.attach(self.home, self.lab, self.node)

    def start(self) -> None:
        """Plug it in and start its agent, if it does not run."""
        self.plug_in()
        if self.agent_pid() is not None:
            return
        self.home.node(self.node).mkdir(mode=0o700, parents=True, exist_ok=True)
        with self.home.log(self.node).open("ab") as log:
            child = subprocess.Popen(
                self.agent_command("run", "--data-path", str(self.home.data(self.node))),
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd="/",
                start_new_session=True,
            )
        # Until then it is not seen to run there, and would be taken for one that has ended.
        deadline = time.monotonic() + ENTER_SECONDS
        while child.poll() is None and self.agent_pid() is None and time.monotonic() < deadline:
            time.sleep(0.01)
        child.returncode = 0  # it is meant to outlive us: Popen shall neither warn nor wait

    def agent_pid(self) -> int | None:
        """Give the running agent's process, ``None`` when it does not run."""
        wanted = str(self.home.data(self.node))
        for pid in processes.of_namespace(self.namespace):
            words = processes.command_of(pid)
            if _AGENT in words and "run" in words and wanted in words and processes.running(pid):
                return pid
        return None

    def stop(self, part: Part = Part.ALL) -> None:
        """End the agent in order; of a whole machine, switch it off then. Containers outlive an agent alone."""
        pid = self.agent_pid()
        if pid is not None:
            processes.send(self.pids(Part.AGENT), signal.SIGCONT)
            processes.send([pid], signal.SIGTERM)
            if not processes.wait_gone(pid, STOP_SECONDS):
                raise TimedOut(f"the agent of {self.node.name} did not end within {STOP_SECONDS:g} s")
        if part is Part.ALL:
            self.power_off()

    def kill(self, part: Part) -> None:
        """End it as a power cut does, or a single part of it as a crash does."""
        if part is Part.ALL:
            self.power_off()
            return
        found = self.pids(part)
        if not found:
            raise Conflict(f"no {part.value} runs on {self.node.name}")
        processes.send(found, signal.SIGKILL)
        for pid in found:
            processes.wait_gone(pid, 5.0)

    def power_off(self) -> None:
        """End every process at once, and lose what a machine without power loses: interfaces, mounts, /run."""
        left = processes.end_all(self.namespace)
        if left:
            raise TimedOut(f"processes of {self.node.name} would not end: {left}")
        wires.unplug(self.lab, self.node)
        tag = self.tag()
        runs = [self.home.runs / tag] if tag else []
        for folder in (self.home.data(self.node), *runs):
            unmount_below(folder)
        for folder in (*runs, *containers_of(self.home.data(self.node))):
            remove_tree(folder)

    def pause(self, part: Part) -> None:
        """Freeze it: nothing of it runs, nothing of it ends."""
        found = self.pids(part)
        if not found:
            raise Conflict(f"nothing runs on {self.node.name}")
        processes.send(found, signal.SIGSTOP)

    def resume(self) -> None:
        """Let everything of it go on."""
        processes.send(self.pids(Part.ALL), signal.SIGCONT)

    # --- looking ----------------------------------------------------------------------------------------------

    def pids(self, part: Part) -> list[int]:
        """List the processes of a part."""
        if part is Part.ALL:
            return processes.of_namespace(self.namespace)
        agent = self.agent_pid()
        if part is Part.AGENT:
            return [] if agent is None else [agent]
        mark = f"{self.home.data(self.node)}/drivers/store-"
        return [
            pid
            for pid in processes.of_namespace(self.namespace)
            if pid != agent and any(mark in word for word in (*processes.command_of(pid), _folder_of(pid)))
        ]

    def tag(self) -> str | None:
        """Give the tag of its agent, once it has been made a node."""
        try:
            return str(json.loads((self.home.data(self.node) / "node.json").read_text())["tag"])
        except (OSError, ValueError, KeyError):
            return None

    def state(self) -> str:
        """Say how it is: ``running``, ``paused``, ``agent down`` or ``off``."""
        agent = self.agent_pid()
        if agent is not None:
            return "paused" if processes.state_of(agent) == "T" else "running"
        return "agent down" if processes.of_namespace(self.namespace) else "off"

    def wait_initialised(self) -> None:
        """Raise ``Unavailable`` with the last words of the agent when it has ended by itself."""
        if self.agent_pid() is None:
            raise Unavailable(f"the agent of {self.node.name} has ended: {self.last_words()}")

    def last_words(self) -> str:
        """Give the end of the agent's log."""
        try:
            lines = self.home.log(self.node).read_text(errors="replace").strip().splitlines()
        except OSError:
            return "it said nothing"
        return " / ".join(lines[-3:])[-600:]


def _folder_of(pid: int) -> str:
    try:
        return os.readlink(f"/proc/{pid}/cwd") + "/"
    except OSError:
        return ""


def containers_of(data: Path) -> list[Path]:
    """List what OCI runtimes keep in the host's /run about a machine's containers; a reboot would have emptied it."""
    found = []
    for state in (path for tool in ("runc", "crun") for path in Path("/run", tool).glob("*/*")):
        with suppress(OSError):
            if state.name in ("state.json", "status") and f'"{data}/' in state.read_text(errors="replace"):
                found.append(state.parent)
    return found


def unmount_below(folder: Path) -> None:
    """Unmount whatever is mounted at or below a folder, the deepest first."""
    libc = ctypes.CDLL(None, use_errno=True)
    for _ in range(3):  # what lay under another mount shows up once that is gone
        points = [line.split(" ")[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
        ours = [point for point in points if Path(point).is_relative_to(folder)]
        if not ours:
            return
        for point in sorted(ours, key=len, reverse=True):
            libc.umount2(point.encode(), _DETACH)


def remove_tree(folder: Path) -> None:
    """Remove a folder, also one that something on its way out still writes to."""
    for _ in range(3):
        with suppress(OSError):
            shutil.rmtree(folder)
        if not folder.exists():
            return
        time.sleep(0.05)
