"""Quadlets and records for the tests of the API."""

from __future__ import annotations


def workload(name="web", ns="default", replicas=2, image="example/web:1", **more):
    lines = [
        "apiVersion: kat.dws.rip/v1alpha1",
        "kind: Workload",
        f"metadata: {{name: {name}, namespace: {ns}, labels: {{app: {name}}}}}",
        f"spec: {{type: Service, replicas: {replicas}, source: {{image: '{image}'}}}}",
    ]
    return {"workload.kat": "\n".join(lines) + "\n", **more}


def balancer(name="web", ns="default", port=80, node_port=None):
    extra = f", nodePort: {node_port}" if node_port else ""
    return {
        "VirtualLoadBalancer.kat": (
            "apiVersion: kat.dws.rip/v1alpha1\nkind: VirtualLoadBalancer\n"
            f"metadata: {{name: {name}, namespace: {ns}}}\n"
            f"spec: {{ports: [{{port: {port}, containerPort: 8080{extra}}}]}}\n"
        )
    }


def namespace(name):
    return {"namespace.kat": f"apiVersion: kat.dws.rip/v1alpha1\nkind: Namespace\nmetadata: {{name: {name}}}\n"}
