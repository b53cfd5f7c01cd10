"""Runtime: images and containers on one node.

Order for one container: ``ensure_image`` → ``create`` → ``init`` → (the network driver attaches) →
``start_container`` → ``stop_container`` → ``remove``. A container that exited is brought back with ``init`` → attach →
``start_container`` again.
The runtime never restarts anything by itself; the agent decides. Containers outlive the agent.
A container is known by its ``name``, which the agent makes from the instance's id; the runtime adds a label by
which it later finds its own (``list_containers`` returns only those of this ``instance_tag``).

Idempotent: ``ensure_image``, ``create`` (same name and same spec digest), ``init``, ``start_container``,
``stop_container``, ``remove``.
Retryable: errors with ``retryable`` set. Every call is bounded by the driver's own deadline and raises ``TimedOut``.
The ids of ``collect`` are container names.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from enum import StrEnum
from typing import Protocol, runtime_checkable

from kat_platform.interfaces.driver import Collects, Driver


class ContainerState(StrEnum):
    """Where a container is in its life."""

    CREATED = "created"
    """Exists; has no process and no network namespace."""
    INITIALIZED = "initialized"
    """Its network namespace exists; the user's command has not run."""
    RUNNING = "running"
    EXITED = "exited"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Mount:
    """A file or folder of the host that appears inside the container (a bind mount)."""

    source: str
    target: str
    read_only: bool = False


@dataclass(frozen=True, slots=True)
class Resources:
    """Limits: ``cpu_millicores`` of CPU time, ``memory_bytes`` of memory; ``None`` is no limit.

    ``cpu_request_millicores`` sets the relative share under contention.
    """

    cpu_millicores: int | None = None
    memory_bytes: int | None = None
    cpu_request_millicores: int | None = None
    gpu_devices: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ContainerSpec:
    """Everything needed to create a container. Pure data: the same spec gives the same container."""

    name: str
    image: str
    labels: Mapping[str, str] = field(default_factory=dict)
    command: tuple[str, ...] | None = None
    """Replaces the image's ENTRYPOINT; ``None`` keeps it."""
    args: tuple[str, ...] | None = None
    """Replaces the image's CMD; ``None`` keeps it unless ``command`` is given (then there are none)."""
    env: Mapping[str, str] = field(default_factory=dict)
    working_dir: str | None = None
    user: str | None = None
    hostname: str | None = None
    mounts: tuple[Mount, ...] = ()
    tmpfs: tuple[str, ...] = ()
    resources: Resources = Resources()
    stop_signal: str | None = None
    stop_timeout_seconds: int = 10
    read_only_root: bool = False
    cap_add: tuple[str, ...] = ()
    cap_drop: tuple[str, ...] = ()
    privileged: bool = False
    no_new_privileges: bool = True
    dns_servers: tuple[str, ...] = ()
    dns_search: tuple[str, ...] = ()
    """Content of the container's ``/etc/resolv.conf`` (``ndots:2``); empty servers: none is written."""
    host_entries: tuple[tuple[str, str], ...] = ()
    """``(address, name)`` pairs for the container's ``/etc/hosts``, where they stand before any other of that name."""

    def digest(self) -> str:
        """Give the SHA-256 (hexadecimal) by which two specs are told apart; the order of mappings has no part in it."""
        return hashlib.sha256(json.dumps(_plain(self), sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def _plain(value: object) -> object:
    """Turn a spec into JSON's own types; ``dataclasses.asdict`` would choke on read-only mappings."""
    if is_dataclass(value):
        return {part.name: _plain(getattr(value, part.name)) for part in fields(value)}
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return [_plain(item) for item in value]
    return value


@dataclass(frozen=True, slots=True)
class Image:
    """An image as it lies on the node. ``id`` is the config digest, ``digest`` the manifest's where known."""

    reference: str
    id: str
    digest: str | None = None
    size_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Container:
    """What the runtime knows of a container now."""

    name: str
    state: ContainerState
    labels: Mapping[str, str] = field(default_factory=dict)
    pid: int | None = None
    """Host pid of the first process while initialised or running."""
    netns: str | None = None
    """Path by which the network namespace can be opened while initialised or running."""
    exit_code: int | None = None
    oom_killed: bool = False
    started_at: float | None = None
    """Seconds since the epoch."""
    finished_at: float | None = None
    spec_digest: str | None = None
    """Digest of the :class:`ContainerSpec` it was created from."""


class RuntimeEventType(StrEnum):
    """What happened to a container."""

    STARTED = "started"
    EXITED = "exited"
    REMOVED = "removed"
    GAP = "gap"
    """The stream was interrupted: events may be missing, list the containers again."""


@dataclass(frozen=True, slots=True)
class RuntimeEvent:
    """One event. Delivered at least once, in order per container; ``at`` in seconds since the epoch."""

    type: RuntimeEventType
    name: str = ""
    exit_code: int | None = None
    oom_killed: bool = False
    at: float = 0.0


@dataclass(frozen=True, slots=True)
class LogLine:
    """One line of a container's output, without its newline; ``at`` in seconds since the epoch."""

    at: float
    stream: str
    """``stdout`` or ``stderr``."""
    text: str


@dataclass(frozen=True, slots=True)
class Usage:
    """What a container uses: CPU seconds since its start, and memory in bytes now."""

    name: str
    cpu_seconds: float
    memory_bytes: int


@dataclass(frozen=True, slots=True)
class ExecResult:
    """Outcome of a command run to its end: output cut to 64 KiB each."""

    exit_code: int
    stdout: bytes = b""
    stderr: bytes = b""


class ExecSession(Protocol):
    """A command running inside a container with its streams attached."""

    def output(self) -> AsyncIterator[tuple[str, bytes]]:
        """Give chunks ``(stream, bytes)`` until the command ends; with a terminal all is ``stdout``."""

    async def write(self, data: bytes) -> None:
        """Send bytes to the command's standard input."""

    async def close_stdin(self) -> None:
        """Signal end of input. Idempotent."""

    async def resize(self, rows: int, columns: int) -> None:
        """Tell the terminal its size; without a terminal nothing happens."""

    async def wait(self) -> int:
        """Wait for the end and give the exit code."""

    async def close(self) -> None:
        """Let go of the session; a command still running is killed where the runtime can. Idempotent."""


@runtime_checkable
class Runtime(Driver, Collects, Protocol):
    """Images and containers on one node; see the module for order and idempotence."""

    async def ensure_image(self, reference: str, *, timeout: float = 600.0) -> Image:
        """Have the image on the node: found locally, else pulled. ``timeout`` in seconds.

        Raises ``ImageNotFound`` (final) or ``ImagePullFailed`` (retryable). A ``localhost/`` reference is never
        looked for in a registry.
        """

    async def find_image(self, reference: str) -> Image | None:
        """Look for the image on the node only."""

    async def create(self, spec: ContainerSpec) -> Container:
        """Create the container, not started, with no network but a loopback interface once initialised.

        If one of that name exists with the same spec digest it is returned as it is (whatever its state);
        with another digest ``Conflict`` is raised.
        """

    async def init(self, name: str) -> Container:
        """Bring it to ``INITIALIZED``: ``pid`` and ``netns`` are set. Of a running one, nothing changes.

        An exited container gets a new network namespace. Raises ``NotFound``, or ``RuntimeFailure`` when it cannot
        be set up (some runtimes notice a missing program here already, others in ``start_container``).
        """

    async def start_container(self, name: str) -> Container:
        """Run the command of an initialised one. Of a running one, nothing changes.

        Raises ``RuntimeFailure`` when it cannot start, also when it is not initialised (or its first process died
        since): it never gets a network namespace other than the one ``init`` told of. Raises ``NotFound``.
        """

    async def stop_container(self, name: str, *, grace: float) -> Container:
        """Send the stop signal, wait ``grace`` seconds, then kill. One that is gone or stopped is no error."""

    async def signal(self, name: str, signal: str) -> None:
        """Send a signal such as ``SIGHUP`` to the first process. Raises ``NotFound`` when none runs."""

    async def remove(self, name: str) -> None:
        """Kill if need be and remove, with all anonymous storage. One that is gone is no error."""

    async def inspect(self, name: str) -> Container | None:
        """Tell what the runtime knows, or ``None`` when there is no such container."""

    async def list_containers(self) -> tuple[Container, ...]:
        """List all containers of this ``instance_tag``, in any state."""

    def events(self) -> AsyncIterator[RuntimeEvent]:
        """Stream events from this call on; reconnects by itself and says ``GAP`` whenever some may be missing.

        An initialised container whose process dies gives ``EXITED`` too.
        """

    def logs(
        self, name: str, *, follow: bool = False, tail: int | None = None, since: float | None = None
    ) -> AsyncIterator[LogLine]:
        """Give the output in order; ``tail`` lines from the end; ``since`` seconds since the epoch.

        Raises ``NotFound``. With ``follow`` it ends when the container is removed or exits.
        """

    async def exec(
        self, name: str, command: tuple[str, ...], *, timeout: float, env: Mapping[str, str] | None = None
    ) -> ExecResult:
        """Run a command to its end inside the container, with the container's user, limits and environment.

        Raises ``TimedOut`` after ``timeout`` seconds (the command is then killed), ``NotFound`` when the container
        does not run. A program that is not there ends with 127, one that cannot be executed with 126, like a shell's.
        """

    async def open_exec(
        self, name: str, command: tuple[str, ...], *, tty: bool = False, stdin: bool = False
    ) -> ExecSession:
        """Start a command with its streams attached; otherwise as :meth:`exec`.

        Raises ``NotFound`` or ``RuntimeFailure``. The command starts in the background: one that is not there ends
        with 127.
        """

    async def usage(self) -> tuple[Usage, ...]:
        """Measure all running containers of this ``instance_tag``."""


@runtime_checkable
class TransfersImages(Protocol):
    """A runtime that can hand an image to another node and take one (for builds without a registry)."""

    def export_image(self, reference: str) -> AsyncIterator[bytes]:
        """Stream the image as an OCI or docker archive."""

    async def import_image(self, reference: str, archive: AsyncIterator[bytes]) -> Image:
        """Load an archive under ``reference``. Atomic: on error nothing of it stays."""


@runtime_checkable
class BuildsImages(Protocol):
    """A runtime that can build an image from a context folder."""

    def build_image(
        self,
        context_dir: str,
        *,
        dockerfile: str,
        tag: str,
        build_args: Mapping[str, str],
        target: str | None = None,
        platform: str | None = None,
        timeout: float = 1800.0,
    ) -> AsyncIterator[str]:
        """Build and tag, giving the output's lines; raises ``BuildFailed`` at the end when it failed."""
