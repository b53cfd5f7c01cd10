"""The container of a workload: command, environment, mounts, resources and what it is allowed to do."""

from __future__ import annotations

import re
import signal
from collections.abc import Iterator
from typing import Annotated, Final, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from kat_platform.errors import InvalidValue
from kat_platform.model.base import Model
from kat_platform.model.faults import Fault, exactly_one, refuse, repeated
from kat_platform.model.quantity import Cpu, Memory, format_cpu, format_memory
from kat_platform.model.scalars import (
    AbsolutePath,
    EnvName,
    Flag,
    LabelKey,
    MountPath,
    Name,
    Positive,
    RelativePath,
    Text,
    WholeText,
)

CAPABILITIES: Final = frozenset(
    [
        "ALL",
        "AUDIT_CONTROL",
        "AUDIT_READ",
        "AUDIT_WRITE",
        "BLOCK_SUSPEND",
        "BPF",
        "CHECKPOINT_RESTORE",
        "CHOWN",
        "DAC_OVERRIDE",
        "DAC_READ_SEARCH",
        "FOWNER",
        "FSETID",
        "IPC_LOCK",
        "IPC_OWNER",
        "KILL",
        "LEASE",
        "LINUX_IMMUTABLE",
        "MAC_ADMIN",
        "MAC_OVERRIDE",
        "MKNOD",
        "NET_ADMIN",
        "NET_BIND_SERVICE",
        "NET_BROADCAST",
        "NET_RAW",
        "PERFMON",
        "SETFCAP",
        "SETGID",
        "SETPCAP",
        "SETUID",
        "SYSLOG",
        "SYS_ADMIN",
        "SYS_BOOT",
        "SYS_CHROOT",
        "SYS_MODULE",
        "SYS_NICE",
        "SYS_PACCT",
        "SYS_PTRACE",
        "SYS_RAWIO",
        "SYS_RESOURCE",
        "SYS_TIME",
        "SYS_TTY_CONFIG",
        "WAKE_ALARM",
    ]
)
"""Linux capabilities (``capabilities(7)``) without their ``CAP_``, and ALL."""

MAX_STOP_TIMEOUT: Final = 24 * 3600


def check_signal(text: str) -> str:
    """Check a signal's name and give it with its SIG: ``TERM`` becomes ``SIGTERM``."""
    name = text if text.startswith("SIG") else f"SIG{text}"
    if name in signal.Signals.__members__ or re.fullmatch(r"SIGRTMIN\+([1-9]|1[0-5])", name):
        return name
    raise InvalidValue(f"'{text[:40]}' is not a signal: write it like SIGTERM or SIGINT")


def check_capability(text: str) -> str:
    """Check a capability's name and give it without ``CAP_``, in capitals."""
    name = text.upper().removeprefix("CAP_")
    if name not in CAPABILITIES:
        raise InvalidValue(f"'{text[:40]}' is not a Linux capability: write it like NET_ADMIN")
    return name


def check_user(text: str) -> str:
    """Check who the command runs as: ``user``, ``uid``, ``user:group`` or ``uid:gid``."""
    match = re.fullmatch(r"([A-Za-z_][\w.-]*\$?|[0-9]{1,10})(:([A-Za-z_][\w.-]*|[0-9]{1,10}))?", text, re.ASCII)
    if match is None or any(int(part) >= 2**32 - 1 for part in text.split(":") if part.isdigit()):
        raise InvalidValue(f"'{text[:40]}' is not a user: write a name or number, or USER:GROUP")
    return text


Capability = Annotated[str, AfterValidator(check_capability)]


class SecretReference(Model):
    """One value of a Secret of the workload's namespace."""

    name: Name = Field(description="Name of the Secret.")
    key: LabelKey = Field(description="Key within the Secret.")


class EnvironmentVariable(Model):
    """A variable: exactly one of ``value`` and ``secret``."""

    name: EnvName = Field(description="Name of the variable; names beginning with KAT_ are KAT's own.")
    value: Text | None = Field(default=None, description="Value, as text.")
    secret: SecretReference | None = Field(default=None, description="Secret that holds the value.")

    @model_validator(mode="after")
    def _check(self) -> Self:
        refuse(exactly_one((), {"value": self.value is not None, "secret": self.secret is not None}))
        if self.name.startswith("KAT_"):
            refuse([Fault(("name",), f"variable '{self.name}': names beginning with KAT_ are set by KAT itself")])
        return self


class VolumeMount(Model):
    """Where a volume of the workload appears in the container."""

    name: Name = Field(description="Name of the volume in the workload's volumes.")
    mount_path: MountPath = Field(description="Absolute path in the container.")
    sub_path: RelativePath | None = Field(default=None, description="Part of the volume to mount instead of all of it.")
    read_only: Flag = Field(default=False, description="Whether the container may only read.")


class ResourceAmounts(Model):
    """An amount of CPU and memory."""

    cpu: Cpu | None = Field(default=None, description="CPU: 250m, 0.5 or 2 (cores).")
    memory: Memory | None = Field(default=None, description="Memory: 64Mi, 1Gi, 500M or plain bytes.")


class GpuRequest(Model):
    """GPUs the container gets for itself."""

    driver: Literal["any", "nvidia", "amd"] = Field(default="any", description="Make of the GPU.")
    count: Annotated[int, Field(strict=True, ge=1, le=64)] = Field(default=1, description="How many GPUs.")
    min_vram_mb: Positive | None = Field(default=None, description="Least memory of each GPU, in MB.")


class Resources(Model):
    """What the container is promised (requests) and what it can never exceed (limits)."""

    requests: ResourceAmounts = Field(
        default=ResourceAmounts(), description="Amounts kept free on the node for this container."
    )
    limits: ResourceAmounts = Field(default=ResourceAmounts(), description="Amounts the container cannot exceed.")
    gpu: GpuRequest | None = Field(default=None, description="GPUs.")

    @property
    def demand(self) -> tuple[int, int]:
        """Millicores and bytes to count on a node: the requests; where absent, the limits; where absent, 0."""
        cpu, memory = self.requests.cpu, self.requests.memory
        return (
            (self.limits.cpu or 0) if cpu is None else cpu,
            (self.limits.memory or 0) if memory is None else memory,
        )

    @model_validator(mode="after")
    def _check(self) -> Self:
        faults = []
        for name, show in (("cpu", format_cpu), ("memory", format_memory)):
            request, limit = getattr(self.requests, name), getattr(self.limits, name)
            if request is not None and limit is not None and request > limit:
                text = f"the request of {name} ({show(request)}) is above the limit ({show(limit)})"
                faults.append(Fault(("requests", name), text))
        refuse(faults)
        return self


class Security(Model):
    """What the container's processes may do."""

    read_only_root_filesystem: Flag = Field(default=False, description="Whether the image's files cannot be changed.")
    cap_add: tuple[Capability, ...] = Field(default=(), description="Linux capabilities to add, such as NET_ADMIN.")
    cap_drop: tuple[Capability, ...] = Field(default=(), description="Linux capabilities to take away, or ALL.")
    privileged: Flag = Field(default=False, description="Whether the container has all rights on its node.")
    no_new_privileges: Flag = Field(default=True, description="Whether set-uid programs give no rights.")

    @model_validator(mode="after")
    def _check(self) -> Self:
        both = [name for name in self.cap_add if name in self.cap_drop]
        refuse(Fault(("capDrop",), f"capability {name} is both added and dropped") for name in both)
        return self


class Container(Model):
    """How the workload's image is run."""

    command: tuple[Text, ...] | None = Field(
        default=None, min_length=1, description="Program and first arguments, in place of the image's entry point."
    )
    args: tuple[Text, ...] | None = Field(default=None, description="Arguments, in place of the image's own.")
    env: tuple[EnvironmentVariable, ...] = Field(default=(), description="Environment variables.")
    working_dir: AbsolutePath | None = Field(default=None, description="Folder the command starts in.")
    user: Annotated[str, AfterValidator(check_user)] | None = Field(
        default=None, description="Who the command runs as: USER, UID, USER:GROUP or UID:GID, as text."
    )
    volume_mounts: tuple[VolumeMount, ...] = Field(default=(), description="Where volumes appear in the container.")
    resources: Resources = Field(default=Resources(), description="CPU, memory and GPUs.")
    stop_signal: Annotated[WholeText, AfterValidator(check_signal)] | None = Field(
        default=None, description="Signal that asks the command to end; by default the image's, else SIGTERM."
    )
    stop_timeout_seconds: Annotated[int, Field(strict=True, ge=0, le=MAX_STOP_TIMEOUT)] = Field(
        default=10, description="Seconds between the stop signal and SIGKILL."
    )
    security: Security = Field(default=Security(), description="What the container's processes may do.")

    @model_validator(mode="after")
    def _check(self) -> Self:
        refuse(self._faults())
        return self

    def _faults(self) -> Iterator[Fault]:
        yield from repeated(("env",), "name", [variable.name for variable in self.env], "variable")
        paths = [mount.mount_path for mount in self.volume_mounts]
        yield from repeated(("volumeMounts",), "mountPath", paths, "mount path")
