"""Home: where labs are written down, and where the files of their machines lie."""

from __future__ import annotations

import fcntl
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from kat_platform.errors import Conflict, NotFound
from kat_platform.lab.plan import PREFIX, Lab, LabNode
from kat_platform.pki.files import private_folder, write_whole

VARIABLE: Final = "KAT_LAB_HOME"
DEFAULT: Final = Path("/var/lib/kat-lab")
LAB_FILE: Final = "lab.json"
RUN: Final = Path("/run")
ALONE_SECONDS: Final = 10.0
"""How long one waits for another to plan a lab, which takes a fraction of a second."""


def base() -> Path:
    """Give the folder of all labs: ``$KAT_LAB_HOME``, else ``/var/lib/kat-lab``."""
    return Path(os.environ.get(VARIABLE, str(DEFAULT)))


@dataclass(frozen=True, slots=True)
class Home:
    """The folders of one lab."""

    name: str

    @property
    def folder(self) -> Path:
        """Everything of the lab that outlives a switched-off machine."""
        return base() / self.name

    @property
    def runs(self) -> Path:
        """Sockets of all of its machines; its path is short, because those of sockets are limited."""
        return RUN / f"{PREFIX}-{self.name}"

    @property
    def config(self) -> Path:
        """The cluster's configuration file."""
        return self.folder / "cluster.kat"

    @property
    def context(self) -> Path:
        """What ``kat-agent init`` wrote for katcall."""
        return self.folder / "context.json"

    def node(self, node: LabNode) -> Path:
        """Folder of a machine."""
        return self.folder / node.name

    def data(self, node: LabNode) -> Path:
        """Data path of a machine's agent."""
        return self.node(node) / "data"

    def disk(self, node: LabNode) -> Path:
        """File that holds a machine's own disk, where it has one."""
        return self.node(node) / "disk.img"

    def log(self, node: LabNode) -> Path:
        """What a machine's agent says."""
        return self.node(node) / "agent.log"

    def save(self, lab: Lab) -> None:
        """Write the lab down."""
        private_folder(base())
        private_folder(self.folder)
        write_whole(self.folder / LAB_FILE, lab.to_json())

    def load(self) -> Lab:
        """Read the lab; raises ``NotFound``."""
        try:
            return Lab.from_json((self.folder / LAB_FILE).read_bytes())
        except FileNotFoundError:
            known = ", ".join(names()) or "none"
            raise NotFound(
                f"there is no lab '{self.name}'", hint=f"there are: {known}; 'katcall lab up' makes one"
            ) from None

    def remove(self) -> None:
        """Remove every file of the lab."""
        shutil.rmtree(self.runs, ignore_errors=True)
        shutil.rmtree(self.folder, ignore_errors=True)
        with suppress(OSError):  # there are others, or it is gone
            base().rmdir()


def names() -> list[str]:
    """List the labs that are written down."""
    if not base().is_dir():
        return []
    return sorted(path.parent.name for path in base().glob(f"*/{LAB_FILE}"))


@contextmanager
def alone(what: str) -> Iterator[None]:
    """Let nobody else on this host plan a lab meanwhile, so that no two get one network, also where their homes differ.

    Raises ``Conflict``, which names ``what``, when another takes too long.
    """
    handle = os.open(RUN, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)  # all labs meet there, and no file stays behind
    try:
        deadline = time.monotonic() + ALONE_SECONDS
        while not _locked(handle):
            if time.monotonic() > deadline:
                raise Conflict(f"another '{what}' is at work at this moment", hint="try again in a second")
            time.sleep(0.05)
        yield
    finally:
        os.close(handle)


def _locked(handle: int) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
