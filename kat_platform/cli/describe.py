"""describe: an object with everything around it, for people."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import click

from kat_platform.cli import render
from kat_platform.cli.client import at
from kat_platform.cli.get import need_workload
from kat_platform.cli.resources import Kind, find_kind, rollout_word
from kat_platform.cli.session import Session, talks
from kat_platform.errors import UsageError


@click.command("describe")
@click.argument("kind")
@click.argument("name", required=False)
@talks
def describe(session: Session, kind: str, name: str | None) -> None:
    """Show a workload, instance, node or namespace with what belongs to it and what happened to it lately.

    KIND/NAME works as well.
    """
    if name is None:
        kind, slash, name = kind.partition("/")
        if not slash:
            raise UsageError(f"describe which {kind}? katcall describe {kind} NAME")
    found = find_kind(kind)
    shows = {"workloads": _workload, "instances": _instance, "nodes": _node}
    if found.plural in shows:
        shows[found.plural](session, name)
    else:
        namespace = session.namespace if found.namespaced else None
        click.echo(render.as_yaml(session.client.request("GET", found.path(namespace, name)).data))


def _fields(rows: Mapping[str, Any]) -> None:
    width = max(len(name) for name in rows) + 2
    for name, value in rows.items():
        if value not in (None, "", [], {}):
            click.echo(f"{name + ':':<{width}}{render.clean(str(value))}")


def _pairs(labels: Mapping[str, str]) -> str:
    return ", ".join(f"{key}={value}" for key, value in sorted(labels.items()))


def _workload(session: Session, name: str) -> None:
    item = need_workload(session, name)
    record, summary, rollout = item["record"], item["summary"], item.get("rollout") or {}
    spec = (item.get("revision") or {}).get("document", {}).get("spec", {})
    _fields(
        {
            "Name": name,
            "Namespace": item["namespace"],
            "Labels": _pairs(record.get("labels", {})),
            "Type": spec.get("type"),
            "Image": spec.get("source", {}).get("image"),
            "Revision": record["revision"],
            "Instances": f"{summary['ready']} ready of {summary['wanted']} wanted, {summary['updated']} updated",
            "State": rollout_word(item),
            "Message": rollout.get("message"),
            "Virtual IP": item.get("virtualIp"),
            "Created": f"{render.age(record.get('createdAt'))} ago",
        }
    )
    balancer = ((item.get("revision") or {}).get("loadBalancer") or {}).get("spec", {})
    for port in balancer.get("ports", ()):
        node_port = f", on every node at {port['nodePort']}" if port.get("nodePort") else ""
        click.echo(f"Port:  {port['name']} {port['port']}/{port['protocol']} -> {port['containerPort']}{node_port}")
    _list(session, find_kind("instances"), item["namespace"], workload=name)
    _events(session, item["namespace"], workload=name)


def _instance(session: Session, name: str) -> None:
    item = session.client.get("namespaces", session.namespace, "instances", name)
    record, status = item["record"], item.get("status") or {}
    _fields(
        {
            "Name": name,
            "Namespace": item["namespace"],
            "Workload": item["workload"],
            "Revision": record["revision"],
            "Node": item.get("node") or "none yet",
            "Phase": item["phase"],
            "Ready": "yes" if item["ready"] else "no",
            "Address": status.get("address"),
            "Restarts": status.get("restarts"),
            "Exit code": status.get("exitCode"),
            "Reason": status.get("reason"),
            "Message": status.get("message"),
            "Not placed": record.get("unplaceable"),
            "Wanted": record.get("desired"),
            "Stopping because": record.get("stopReason"),
            "PID": status.get("pid"),
            "Image": status.get("imageId"),
            "Started": f"{render.age(status['startedAt'])} ago" if status.get("startedAt") else None,
        }
    )
    _events(session, item["namespace"], workload=item["workload"], about=name)


def _node(session: Session, name: str) -> None:
    item = session.client.get("nodes", name)
    show_node(session, item)


def show_node(session: Session, item: Mapping[str, Any]) -> None:
    """Print a node."""
    record, report = item["record"], item.get("report") or {}
    room, total = report.get("allocatable") or {}, report.get("capacity") or {}
    _fields(
        {
            "Name": item["name"],
            "Role": record["role"],
            "State": "Ready" if item["ready"] else f"NotReady: {item.get('reason', '')}",
            "Cordoned": ("yes, being drained" if record.get("draining") else "yes") if record.get("cordoned") else "no",
            "Labels": _pairs(item["labels"]),
            "Taints": ", ".join(map(render.taint, item.get("taints", record.get("taints", ())))),
            "Subnet": record.get("subnet"),
            "Addresses": ", ".join(report.get("addresses", ())),
            "CPU": f"{room.get('cpuMillicores', 0) / 1000:g} of {total.get('cpuMillicores', 0) / 1000:g}",
            "Memory": f"{render.size(room.get('memoryBytes', 0))} of {render.size(total.get('memoryBytes', 0))}",
            "Versions": _pairs(report.get("versions", {})),
        }
    )
    for plugin, facts in sorted(report.get("pluginFacts", {}).items()):
        click.echo(render.clean(f"Plugin {plugin}:  {json.dumps(facts, sort_keys=True, ensure_ascii=False)}"))
    for condition in report.get("conditions", ()):
        word = "yes" if condition["status"] else "no"
        click.echo(render.clean(f"Condition:  {condition['type']}: {word} {condition.get('message', '')}"))
    items = session.client.request("GET", at("instances")).data["items"]
    here = [each for each in items if each.get("node") == item["name"]]
    _table(find_kind("instances"), here, with_namespace=True)


def _list(session: Session, kind: Kind, namespace: str, **params: str) -> None:
    _table(kind, session.client.request("GET", kind.path(namespace), params=params).data["items"])


def _table(kind: Kind, items: list[Any], *, with_namespace: bool = False) -> None:
    if items:
        rows = [kind.row(item, wide=False, with_namespace=with_namespace) for item in items]
        click.echo(f"\n{kind.plural.capitalize()}:")
        click.echo(render.table(kind.header(wide=False, with_namespace=with_namespace), rows))


def _events(session: Session, namespace: str, *, workload: str, about: str | None = None) -> None:
    kind = find_kind("events")
    items = session.client.request("GET", kind.path(namespace), params={"workload": workload}).data["items"]
    items = [item for item in items if about is None or item["event"]["objectName"] == about]
    _table(kind, sorted(items, key=lambda item: item["event"]["lastAt"])[-20:])
