"""Quadlets for the tests. JSON is YAML, so they are written as such."""

from __future__ import annotations

import json
from typing import Any

from .images import WEB

API = "kat.dws.rip/v1alpha1"
HEALTHY = {"http": {"path": "/healthz", "port": 8080}, "periodSeconds": 1, "timeoutSeconds": 1, "failureThreshold": 2}


def document(kind: str, name: str, namespace: str | None = None, spec: dict[str, Any] | None = None) -> str:
    """Give one document."""
    metadata = {"name": name} | ({"namespace": namespace} if namespace else {})
    return json.dumps({"apiVersion": API, "kind": kind, "metadata": metadata} | ({"spec": spec} if spec else {}))


def workload(
    name: str, namespace: str, *, image: str = WEB, container: dict[str, Any] | None = None, **spec: Any
) -> dict[str, str]:
    """Give a Quadlet of one workload without a load balancer; a Service unless told otherwise."""
    box = {"stopTimeoutSeconds": 3, **(container or {})}
    body = {"type": "Service", "source": {"image": image}, "container": box, **spec}
    return {"workload.kat": document("Workload", name, namespace, body)}


def web(
    name: str,
    namespace: str,
    *,
    ports: list[dict[str, Any]] | None = None,
    check: dict[str, Any] | None = HEALTHY,
    **more: Any,
) -> dict[str, str]:
    """Give a Quadlet of a web server behind a virtual IP, port 80."""
    balancer: dict[str, Any] = {"ports": ports or [{"name": "http", "port": 80, "containerPort": 8080}]}
    if check is not None:
        balancer["healthCheck"] = check
    files = workload(name, namespace, **more)
    return {**files, "VirtualLoadBalancer.kat": document("VirtualLoadBalancer", name, namespace, balancer)}
