"""ports: what is reachable from where."""

from __future__ import annotations

from typing import Any

import click

from kat_platform.cli import render
from kat_platform.cli.client import at
from kat_platform.cli.resources import find_kind
from kat_platform.cli.session import Session, talks
from kat_platform.errors import Denied, UsageError


@click.command("ports")
@click.option("-A", "--all-namespaces", "everywhere", is_flag=True, help="Workloads of all namespaces.")
@click.option("-o", "--output", default="table", help="table, json, yaml or jsonpath=TEMPLATE.")
@talks
def ports(session: Session, everywhere: bool, output: str) -> None:
    """List what can be reached: from anywhere, from instances, and through which address and name."""
    if render.check_format(output) in ("name", "wide"):
        raise UsageError(f"'{output}' is no output format of ports")
    kind = find_kind("workloads")
    items = session.client.request("GET", kind.path(None if everywhere else session.namespace)).data["items"]
    document = _configuration(session)
    domain = document.get("clusterDomain", "")
    rows = [row for item in items for row in _of_workload(item, domain)] + _own(document)
    data = [dict(zip(("from", "address", "protocol", "to", "name"), row, strict=True)) for row in rows]
    text = render.structured(output, {"kind": "List", "items": data})
    click.echo(text if text is not None else render.table(("FROM", "ADDRESS", "PROTOCOL", "TO", "NAME"), rows))


def _configuration(session: Session) -> dict[str, Any]:
    try:
        spec: dict[str, Any] = session.client.request("GET", at("configuration")).data["document"]["spec"]
    except Denied:
        return {}  # with a role in one namespace only, the cluster's own ports are nobody's business
    return spec


def _of_workload(item: dict[str, Any], domain: str) -> list[tuple[str, str, str, str, str]]:
    balancer = ((item.get("revision") or {}).get("loadBalancer") or {}).get("spec") or {}
    target = f"{item['namespace']}/{item['name']}"
    name = f"{item['name']}.{item['namespace']}.{domain}" if domain else "-"
    found: list[tuple[str, str, str, str, str]] = []
    for port in balancer.get("ports", ()):
        to = f"{target} port {port['containerPort']}"
        inside = f"{item.get('virtualIp') or '(no address yet)'}:{port['port']}"
        found.append(("instances and nodes", inside, port["protocol"], to, name))
        if port.get("nodePort"):
            found.append(("anywhere", f"any node's address:{port['nodePort']}", port["protocol"], to, "-"))
    if not balancer.get("ports"):
        found.append(("instances and nodes", "(each instance's own address)", "any", target, name))
    return found


def _own(spec: dict[str, Any]) -> list[tuple[str, str, str, str, str]]:
    rows: list[tuple[str, str, str, str, str]] = []
    if "apiPort" in spec:
        to = "KAT's API (certificate or token)"
        rows.append(("anywhere", f"control-plane node's address:{spec['apiPort']}", "TCP", to, "-"))
    if "agentPort" in spec:
        to = "KAT's agent (control plane only)"
        rows.append(("nodes", f"node's overlay address:{spec['agentPort']}", "TCP", to, "-"))
    known = {"apiPort", "agentPort"}
    for field, value in spec.items():
        if field.endswith("Port") and field not in known and "eer" not in field:
            rows.append(("anywhere", f"any node's address:{value}", "UDP", "KAT's overlay network (keys)", "-"))
    return rows
