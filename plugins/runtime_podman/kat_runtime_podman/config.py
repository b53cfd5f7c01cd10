"""What can be set under ``pluginConfig.podman``."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from kat_platform.model.base import Model

Host = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9.\[\]:-]{1,255}$")]
"""A registry's host name with an optional port."""
AbsolutePath = Annotated[str, StringConstraints(pattern=r"^/[^\x00-\x1f\"\\]*$")]


class PodmanConfig(Model):
    """Settings of the runtime driver ``podman``; each has a default that suits most hosts."""

    oci_runtime: Literal["auto", "crun", "runc"] = Field(
        "auto", description="Program that makes containers; auto takes crun on cgroup v2 and runc otherwise."
    )
    cgroup_manager: Literal["auto", "cgroupfs", "systemd"] = Field(
        "auto", description="Who makes cgroups; auto takes systemd where it runs with cgroup v2."
    )
    default_registry: Host = Field("docker.io", description="Where an image named without a registry is pulled from.")
    insecure_registries: tuple[Host, ...] = Field((), description="Registries spoken to without or with unchecked TLS.")
    auth_file: AbsolutePath | None = Field(
        None, description="File with registry credentials in containers-auth.json(5) format, readable by root only."
    )
    local_stores: tuple[AbsolutePath, ...] = Field(
        ("/var/lib/containers/storage",),
        description="Podman storages of this host from which images are copied before a registry is asked.",
    )
    log_max_bytes: int = Field(
        10 * 1024 * 1024, ge=65536, description="Size at which a container's log file starts afresh."
    )
    pids_limit: int = Field(2048, ge=16, description="Most processes and threads one container may have.")
    call_timeout_seconds: float = Field(60.0, ge=1, le=600, description="Deadline of one call to Podman's service.")
    max_parallel_calls: int = Field(8, ge=1, le=64, description="Most calls under way at once.")
    max_parallel_pulls: int = Field(3, ge=1, le=16, description="Most images pulled at once.")
