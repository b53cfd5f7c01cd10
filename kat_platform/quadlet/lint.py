"""Looks a Quadlet over: every error, and what is valid but probably not meant."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

from kat_platform.model.image import ImageReference
from kat_platform.model.workload import Workload
from kat_platform.quadlet.parser import SUFFIX, Quadlet, parse_cluster, read_quadlet
from kat_platform.quadlet.problem import Problem, QuadletInvalid, path_text
from kat_platform.quadlet.support import unsupported

CLUSTER_FILE = "cluster.kat"


def lint(files: Mapping[str, bytes]) -> list[Problem]:
    """Give errors and warnings of a Quadlet's files, or of a ``cluster.kat`` by itself, in the order of the files."""
    if list(files) == [CLUSTER_FILE]:
        try:
            parse_cluster(files[CLUSTER_FILE], CLUSTER_FILE)
        except QuadletInvalid as invalid:
            return list(invalid.problems)
        return []
    quadlet, problems = read_quadlet(files)
    problems = [*problems, *_stray_files(files)]
    if quadlet is not None:
        problems.extend(replace(problem, severity="warning") for problem in unsupported(quadlet))
        if quadlet.workload is not None:
            problems.extend(_workload(quadlet, quadlet.workload))
    return sorted(problems, key=lambda found: (found.file, found.line, found.column))


def _stray_files(files: Mapping[str, bytes]) -> Iterator[Problem]:
    for path, content in files.items():
        if path.endswith(SUFFIX) and "/" in path:
            yield _warning(path, "is not read: only .kat files in the Quadlet's root are")
        elif path.endswith((".yaml", ".yml")) and "/" not in path and b"kat.dws.rip/" in content[:65536]:
            yield _warning(path, f"is not read: rename it to {path.rpartition('.')[0]}{SUFFIX}")


def _warning(path: str, message: str) -> Problem:
    return Problem(path, 1, 1, "", f"'{path}' {message}", severity="warning")


def _workload(quadlet: Quadlet, workload: Workload) -> Iterator[Problem]:
    def warn(message: str, *path: str | int) -> Problem:
        where = quadlet.locate("Workload", workload.metadata.name, path)
        return Problem(*where, path_text(path), message, severity="warning")

    spec, container = workload.spec, workload.spec.container
    if spec.source.image is not None and ImageReference.parse(spec.source.image).is_moving:
        text = f"image '{spec.source.image}' may mean another image tomorrow: name a version or a digest"
        yield warn(text, "spec", "source", "image")
    if spec.type != "Job" and not any(balancer.spec.health_check for balancer in quadlet.load_balancers):
        text = "there is no health check: an instance counts as ready as soon as it runs"
        yield warn(text, "spec")
    if container.resources.demand[0] == 0:
        yield warn("no CPU is requested: the scheduler takes it for nothing", "spec", "container", "resources")
    if container.resources.demand[1] == 0:
        yield warn("no memory is requested: the scheduler takes it for nothing", "spec", "container", "resources")
    if container.security.privileged:
        text = "a privileged container has all rights on its node"
        yield warn(text, "spec", "container", "security", "privileged")
    mounted = {mount.name for mount in container.volume_mounts}
    for index, volume in enumerate(spec.volumes):
        if volume.name not in mounted:
            yield warn(f"volume '{volume.name}' is not mounted", "spec", "volumes", index, "name")
    pinned = any(volume.simple_cluster_storage is not None for volume in spec.volumes)
    if pinned and spec.type == "Service" and spec.replicas > 1:
        text = f"{spec.replicas} replicas share a volume that lies on one node: all of them run there"
        yield warn(text, "spec", "replicas")
