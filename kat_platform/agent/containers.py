"""Containers: from an assignment to the spec of its container. Pure."""

from __future__ import annotations

from ipaddress import IPv4Address

from kat_platform.interfaces.runtime import ContainerSpec, Mount, Resources
from kat_platform.model.view import AssignmentItem

LABEL_INSTANCE = "kat.dws.rip/instance"
LABEL_WORKLOAD = "kat.dws.rip/workload"
LABEL_NAMESPACE = "kat.dws.rip/namespace"
LABEL_REVISION = "kat.dws.rip/revision"


def container_name(key: str) -> str:
    """Give the container's name for an instance's key ``NAMESPACE/ID``; neither part has a dot."""
    return key.replace("/", ".", 1)


def key_of(name: str) -> str:
    """Give the instance's key for a container's name: the inverse of :func:`container_name`."""
    return name.replace(".", "/", 1)


def container_spec(
    assignment: AssignmentItem, mounts: tuple[Mount, ...], *, node: str, address: str, dns: IPv4Address, domain: str
) -> ContainerSpec:
    """Give the spec of an instance's container on this node; ``dns`` is the node's own name server.

    Its host name means its overlay ``address``: what a program tells others of itself is then of use to them.
    """
    record, spec = assignment.record, assignment.document.spec
    box = spec.container
    env = {variable.name: variable.value or "" for variable in box.env if variable.secret is None}
    env |= {
        "KAT_INSTANCE": record.id,
        "KAT_WORKLOAD": record.workload,
        "KAT_NAMESPACE": record.namespace,
        "KAT_NODE": node,
    }
    limits, requests = box.resources.limits, box.resources.requests
    return ContainerSpec(
        name=container_name(record.key),
        image=spec.source.image or "",
        labels={
            LABEL_INSTANCE: record.id,
            LABEL_WORKLOAD: record.workload,
            LABEL_NAMESPACE: record.namespace,
            LABEL_REVISION: str(record.revision),
        },
        command=box.command,
        args=box.args,
        env=env,
        working_dir=box.working_dir,
        user=box.user,
        hostname=record.id,
        mounts=mounts,
        resources=Resources(cpu_millicores=limits.cpu, memory_bytes=limits.memory, cpu_request_millicores=requests.cpu),
        stop_signal=box.stop_signal,
        stop_timeout_seconds=box.stop_timeout_seconds,
        read_only_root=box.security.read_only_root_filesystem,
        cap_add=tuple(box.security.cap_add),
        cap_drop=tuple(box.security.cap_drop),
        privileged=box.security.privileged,
        no_new_privileges=box.security.no_new_privileges and not box.security.privileged,
        dns_servers=(str(dns),),
        dns_search=(f"{record.namespace}.{domain}", domain),
        host_entries=((address, record.id),),
    )
