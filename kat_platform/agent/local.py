"""Local: what a node keeps on its own disk about itself, and where everything of it lies."""

from __future__ import annotations

import fcntl
import os
import shutil
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Final

from kat_platform.errors import Conflict, HostNotReady, InvalidInput, NotFound
from kat_platform.interfaces.driver import Capability, DriverContext
from kat_platform.model.base import Model
from kat_platform.model.cluster import ClusterConfiguration
from kat_platform.model.node import NodeRole
from kat_platform.pki.files import private_folder, write_whole

RUN_BASE: Final = Path(os.environ.get("KAT_RUN_PATH", "/run/kat"))
"""Where sockets and the like of every node on this machine lie; a lab gives its nodes a folder of their own."""
NODE_FILE: Final = "node.json"
PENDING_FILE: Final = "pending-cluster.json"
LEAVING_FILE: Final = "leaving"
GIVEN_FILE: Final = "endpoint.json"
UNFINISHED_FILE: Final = "recovering.json"


class Membership(StrEnum):
    """How far this node has come in becoming a member of the store; means nothing on a worker."""

    ABSENT = "absent"
    LEARNER = "learner"
    """Announced to the other members, and its store prepared: it catches up when it starts, and then gets its vote."""
    VOTER = "voter"


class LocalNode(Model):
    """A node's identity and the last configuration it saw: enough to start without the store."""

    cluster_id: str
    node_name: str
    role: NodeRole
    tag: str
    """At most six characters, unique per agent on this machine: part of every name global to the machine."""
    configuration: ClusterConfiguration
    api_endpoints: tuple[str, ...] = ()
    created_at: float = 0.0
    membership: Membership = Membership.VOTER


@dataclass(frozen=True, slots=True)
class Places:
    """The folders of one node below its data path."""

    data: Path

    @property
    def pki(self) -> Path:
        """Keys and certificates of the node and, on the control plane, of the CA."""
        return self.data / "pki"

    @property
    def certificate(self) -> Path:
        """The node's own certificate."""
        return self.pki / "node.pem"

    @property
    def key(self) -> Path:
        """The node's own private key."""
        return self.pki / "node.key"

    @property
    def journal(self) -> Path:
        """The agent's journal."""
        return self.data / "journal"

    @property
    def node_file(self) -> Path:
        """The node's identity; its presence says that the host is initialised."""
        return self.data / NODE_FILE

    @property
    def pending(self) -> Path:
        """A configuration given with ``kat-agent configure``, not yet taken over by the cluster."""
        return self.data / PENDING_FILE

    @property
    def leaving(self) -> Path:
        """How far the node has come in leaving its cluster; see ``agent.leave``."""
        return self.data / LEAVING_FILE

    @property
    def given(self) -> Path:
        """An endpoint of the cluster given with ``kat-agent endpoint``; see ``agent.given``."""
        return self.data / GIVEN_FILE

    @property
    def unfinished(self) -> Path:
        """Is there while a node is being made from a backup, and stays when that was interrupted."""
        return self.data / UNFINISHED_FILE

    def driver_data(self, capability: Capability, name: str) -> Path:
        """The folder of a driver's own that outlives reboots."""
        return self.data / "drivers" / f"{capability.value}-{name}"

    def rebased(self, configured: str, data_path: str) -> Path:
        """Give where a folder of the configuration is on this node.

        One below ``dataPath`` follows this node's own data path, which may be another one (``--data-path``).
        """
        path = Path(configured)
        return self.data / path.relative_to(data_path) if path.is_relative_to(data_path) else path

    def run(self, tag: str) -> Path:
        """Folder for sockets and the like, emptied at boot; short, because socket paths are limited."""
        return RUN_BASE / tag

    def context(self, node: LocalNode, capability: Capability, name: str) -> DriverContext:
        """Make a driver's context with folders of its own."""
        private_folder(self.data / "drivers")
        data = private_folder(self.driver_data(capability, name))
        private_folder(RUN_BASE)
        run = private_folder(private_folder(self.run(node.tag)) / capability.value)
        return DriverContext(node.node_name, data, run, node.tag)


def interruption(places: Places) -> str:
    """Say that a recovery was begun on this machine and not ended."""
    return f"a recovery of this node was interrupted ({places.unfinished} is there)"


def load_node(places: Places) -> LocalNode:
    """Read the node's identity; raises ``NotFound`` when the host is not initialised."""
    try:
        node = LocalNode.from_json(places.node_file.read_bytes())
    except FileNotFoundError:
        if places.unfinished.exists():  # before it came to say which node this is
            raise NotFound(interruption(places), hint="run 'kat-agent recover --from-backup' once more") from None
        raise NotFound(
            f"this host is not initialised: there is no {places.node_file}", hint="run 'kat-agent init' first"
        ) from None
    except PermissionError:
        raise HostNotReady(f"{places.node_file} may not be read", hint="kat-agent runs as root") from None
    except ValueError as error:
        raise InvalidInput(f"{places.node_file} is damaged: {str(error)[:200]}") from error
    if places.pending.exists():
        pending = ClusterConfiguration.from_json(places.pending.read_bytes())
        node = node.model_copy(update={"configuration": pending})
    return node


def save_node(places: Places, node: LocalNode) -> None:
    """Write the node's identity, whole or not at all."""
    private_folder(places.data)
    write_whole(places.node_file, node.to_json())


class AgentLock:
    """Makes sure that only one agent runs on a data path: held by the kernel for as long as the process lives."""

    def __init__(self, places: Places) -> None:
        self._path = places.data / "agent.lock"
        self._file: int | None = None

    def acquire(self) -> None:
        """Take the lock or raise ``Conflict`` naming the process that has it."""
        handle = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            holder = os.read(handle, 32).decode(errors="replace").strip()
            os.close(handle)
            raise Conflict(f"another kat-agent (process {holder or '?'}) runs on {self._path.parent}") from None
        os.ftruncate(handle, 0)
        os.write(handle, str(os.getpid()).encode())
        self._file = handle

    def holder(self) -> int | None:
        """Give the process that has the lock; ``None`` when there is none, or it has not written itself down yet."""
        wanted = str(self._path.resolve())
        try:
            pid = int(self._path.read_text())
            for opened in Path(f"/proc/{pid}/fd").iterdir():
                with suppress(FileNotFoundError):
                    if os.readlink(opened) == wanted:
                        return pid
        except (OSError, ValueError):
            pass  # nobody, or nobody any more
        return None  # the number is that of who had it before

    def release(self) -> None:
        """Give the lock back. Idempotent."""
        if self._file is not None:
            os.close(self._file)
            self._file = None


def remove_places(places: Places, tag: str, keep: tuple[Path, ...]) -> None:
    """Remove a node's files, but not what lies at or below ``keep``."""
    shutil.rmtree(places.run(tag), ignore_errors=True)
    if RUN_BASE.exists() and not any(RUN_BASE.iterdir()):
        RUN_BASE.rmdir()
    if not places.data.exists():
        return
    last = (places.leaving, places.node_file)  # without these nobody would know after a crash that more is to be done
    for child in sorted(places.data.iterdir(), key=lambda path: last.index(path) if path in last else -1):
        if any(child == path or child in path.parents for path in keep):
            continue
        if child.is_dir() and not child.is_symlink():
            shutil.rmtree(child)
        else:
            child.unlink()
    if not any(places.data.iterdir()) and not os.path.ismount(places.data):
        places.data.rmdir()
