"""Workload: what to run, how many of it, and how it is updated, restarted and placed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, Literal, Self

from pydantic import Field, ValidationInfo, field_validator, model_validator

from kat_platform.model.base import Model
from kat_platform.model.container import Container
from kat_platform.model.faults import Fault, exactly_one, refuse, repeated
from kat_platform.model.meta import Document
from kat_platform.model.placement import Affinity, Spread, Toleration
from kat_platform.model.quantity import CountOrPercent, IntOrPercent
from kat_platform.model.scalars import AbsolutePath, Labels, Name, Positive, Whole
from kat_platform.model.source import Source

WorkloadType = Literal["Service", "Job", "DaemonService"]
RestartCondition = Literal["Always", "MaxCount", "Never"]


class RollingUpdate(Model):
    """The pace of a rolling update, and what happens when it does not get on."""

    max_surge: CountOrPercent = Field(
        default=IntOrPercent(1), description='Instances above replicas while updating: a number or "25%" (rounded up).'
    )
    max_unavailable: CountOrPercent = Field(
        default=IntOrPercent(0),
        description='Instances that may be missing while updating: a number or "25%" (rounded down).',
    )
    min_ready_seconds: Whole = Field(default=0, description="Seconds an instance must be ready before it counts.")
    progress_deadline_seconds: Positive = Field(
        default=600, description="Seconds without progress after which the update has failed."
    )
    on_failure: Literal["Pause", "Rollback"] = Field(
        default="Pause", description="What happens after that: stop where it is, or return to the revision before."
    )

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.max_surge.value == 0 and self.max_unavailable.value == 0:
            refuse([Fault(("maxSurge",), "maxSurge and maxUnavailable cannot both be 0: nothing could ever change")])
        if self.min_ready_seconds >= self.progress_deadline_seconds:
            refuse([Fault(("progressDeadlineSeconds",), "progressDeadlineSeconds must be above minReadySeconds")])
        return self


class UpdateStrategy(Model):
    """How instances of one revision are replaced by those of the next."""

    type: Literal["Rolling", "Simultaneous"] = Field(
        default="Rolling", description="Rolling: a few at a time. Simultaneous: stop all, then start all."
    )
    rolling: RollingUpdate = Field(default=RollingUpdate(), description="The pace of a Rolling update.")

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.type == "Simultaneous" and "rolling" in self.model_fields_set and self.rolling != RollingUpdate():
            refuse([Fault(("rolling",), "rolling has no meaning with type Simultaneous: remove it")])
        return self


class RestartPolicy(Model):
    """What happens when an instance's command ends."""

    condition: RestartCondition = Field(
        description="Always; MaxCount: at most maxRestarts times; Never. "
        "Absent: Always for Service and DaemonService, Never for Job."
    )
    max_restarts: Whole | None = Field(default=None, description="With MaxCount: how often, before it has Failed.")
    reset_seconds: Positive | None = Field(
        default=None, description="With MaxCount: seconds of running after which the count starts again."
    )

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.condition == "MaxCount":
            if self.max_restarts is None:
                refuse([Fault((), "condition MaxCount needs maxRestarts")])
            return self
        names = (("maxRestarts", self.max_restarts), ("resetSeconds", self.reset_seconds))
        refuse(
            Fault((name,), f"{name} has a meaning only with condition MaxCount, not {self.condition}")
            for name, value in names
            if value is not None
        )
        return self


class SimpleClusterStorage(Model):
    """A folder KAT makes for the workload on the node it first runs on; it stays there."""


class HostMount(Model):
    """A file or folder of the node itself."""

    host_path: AbsolutePath = Field(description="Absolute path on the node.")
    ensure_type: Literal["Directory", "DirectoryOrCreate", "File", "FileOrCreate"] | None = Field(
        default=None, description="What must be there, or is made; absent: whatever is there, but something."
    )


class WorkloadVolume(Model):
    """A volume of the workload: exactly one kind of it."""

    name: Name = Field(description="Name by which volumeMounts refers to it.")
    simple_cluster_storage: SimpleClusterStorage | None = Field(
        default=None, description="A folder of the workload's own, kept on one node: write {}."
    )
    host_mount: HostMount | None = Field(default=None, description="A file or folder of the node.")
    volume: Name | None = Field(default=None, description="Name of a VolumeDefinition of the namespace.")
    secret: Name | None = Field(default=None, description="Name of a Secret, mounted as files in memory.")

    @model_validator(mode="after")
    def _check(self) -> Self:
        if "simple_cluster_storage" in self.model_fields_set and self.simple_cluster_storage is None:
            refuse(
                [Fault(("simpleClusterStorage",), "simpleClusterStorage is empty: write 'simpleClusterStorage: {}'")]
            )
        kinds = {
            "simpleClusterStorage": self.simple_cluster_storage is not None,
            "hostMount": self.host_mount is not None,
            "volume": self.volume is not None,
            "secret": self.secret is not None,
        }
        refuse(exactly_one((), kinds))
        return self


class Dependency(Model):
    """Another workload that must be there first."""

    workload: Name = Field(description="Name of a workload of the same namespace.")
    condition: Literal["Ready", "Completed"] = Field(default="Ready", description="What it must have reached.")


def _default_restart(data: dict[str, Any]) -> RestartPolicy:
    return RestartPolicy(condition="Never" if data.get("type") == "Job" else "Always")


class WorkloadSpec(Model):
    """What to run, how many of it, and how it is updated, restarted and placed."""

    type: WorkloadType = Field(
        description="Service: runs until stopped. Job: runs to its end. DaemonService: one on each node."
    )
    source: Source = Field(description="Where the image comes from.")
    replicas: Whole = Field(default=1, description="Instances of a Service, 0 or more.")
    update_strategy: UpdateStrategy = Field(default=UpdateStrategy(), description="How a new revision is brought in.")
    restart_policy: RestartPolicy = Field(
        default_factory=_default_restart, description="What happens when the command ends."
    )
    node_selector: Labels = Field(default_factory=dict, description="Labels a node must have, all of them.")
    tolerations: tuple[Toleration, ...] = Field(default=(), description="Taints the instances put up with.")
    affinity: Affinity = Field(default=Affinity(), description="Instances to be near to.")
    anti_affinity: Affinity = Field(default=Affinity(), description="Instances to stay away from.")
    spread: Spread | None = Field(default=None, description="Evenness over nodes or other places.")
    priority: Annotated[int, Field(strict=True, ge=-1000, le=1000)] = Field(
        default=0, description="-1000 to 1000; a higher one may take the place of a lower one when nothing fits."
    )
    container: Container = Field(default=Container(), description="How the image is run.")
    volumes: tuple[WorkloadVolume, ...] = Field(default=(), description="Volumes the container can mount.")
    depends_on: tuple[Dependency, ...] = Field(default=(), description="Workloads that must be there first.")

    @field_validator("restart_policy", mode="before")
    @classmethod
    def _default_condition(cls, value: Any, info: ValidationInfo) -> Any:
        if isinstance(value, dict) and "condition" not in value:
            return {"condition": _default_restart(info.data).condition, **value}
        return value

    @model_validator(mode="after")
    def _check(self) -> Self:
        refuse(self._faults())
        return self

    def _faults(self) -> Iterator[Fault]:
        if self.type != "Service" and "replicas" in self.model_fields_set and self.replicas != 1:
            other = "completions of a JobDefinition" if self.type == "Job" else "one instance on each matching node"
            yield Fault(("replicas",), f"replicas is for type Service; type {self.type} has {other} instead")
        if self.type == "Job" and self.restart_policy.condition == "Always":
            yield Fault(("restartPolicy",), "a Job that is always restarted would never end: use Never or MaxCount")
        names = [volume.name for volume in self.volumes]
        yield from repeated(("volumes",), "name", names, "volume")
        declared = frozenset(names)
        for index, mount in enumerate(self.container.volume_mounts):
            if mount.name not in declared:
                text = f"there is no volume '{mount.name}' in spec.volumes"
                yield Fault(("container", "volumeMounts", index, "name"), text, names)
        needed = [dependency.workload for dependency in self.depends_on]
        yield from repeated(("dependsOn",), "workload", needed, "dependency")


class Workload(Document):
    """A service, job or daemon to run on the cluster."""

    kind: Literal["Workload"] = Field(default="Workload", description="Kind of the document.")
    spec: WorkloadSpec = Field(description="What to run and how.")

    @model_validator(mode="after")
    def _check_dependencies(self) -> Self:
        for index, dependency in enumerate(self.spec.depends_on):
            if dependency.workload == self.metadata.name:
                refuse([Fault(("spec", "dependsOn", index, "workload"), "a workload cannot depend on itself")])
        return self
