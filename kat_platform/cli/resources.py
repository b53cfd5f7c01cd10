"""Resources: the kinds of objects ``get`` and its like know, their short names, paths and columns."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any, Final

from kat_platform.cli import render
from kat_platform.cli.client import at
from kat_platform.errors import UsageError

Item = Mapping[str, Any]
Cells = Callable[[Item], tuple[str, ...]]


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind: how it is called, where it lies, and how a row of it looks. ``wide`` columns come after the others."""

    plural: str
    singular: str
    short: tuple[str, ...]
    namespaced: bool
    columns: tuple[str, ...]
    cells: Cells
    wide_columns: tuple[str, ...] = ()
    wide_cells: Cells = lambda _: ()

    def path(self, namespace: str | None, name: str | None = None) -> str:
        """Give the path of the list, or of one object; ``namespace`` ``None`` is all of them."""
        parts = ["namespaces", namespace, self.plural] if self.namespaced and namespace else [self.plural]
        return at(*[str(part) for part in parts], *([name] if name is not None else []))

    def row(self, item: Item, *, wide: bool, with_namespace: bool) -> tuple[str, ...]:
        """Give the cells of an object."""
        cells = self.cells(item) + (self.wide_cells(item) if wide else ())
        return (str(item.get("namespace") or "-"), *cells) if with_namespace and self.namespaced else cells

    def header(self, *, wide: bool, with_namespace: bool) -> tuple[str, ...]:
        """Give the names of the columns."""
        names = self.columns + (self.wide_columns if wide else ())
        return ("NAMESPACE", *names) if with_namespace and self.namespaced else names


def find_kind(name: str) -> Kind:
    """Find a kind by any of its names; raises ``UsageError`` with the nearest."""
    wanted = name.lower()
    for kind in KINDS:
        if wanted in (kind.plural, kind.singular, *kind.short):
            return kind
    names = [each for kind in KINDS for each in (kind.plural, kind.singular)]
    near = get_close_matches(wanted, names, n=1, cutoff=0.5)
    hint = f"did you mean '{near[0]}'?" if near else f"there are: {', '.join(kind.plural for kind in KINDS)}"
    raise UsageError(f"there is no kind '{name}'", hint=hint)


def rollout_word(item: Item) -> str:
    """Say in one word how a workload stands."""
    record, rollout = item["record"], item.get("rollout") or {}
    if record.get("deleting"):
        return "Deleting"
    current = rollout.get("revision") == record["revision"] and rollout.get("generation", 0) == record["generation"]
    if not current:
        return "Progressing"
    summary = item["summary"]
    if rollout["state"] == "Complete" and summary["ready"] < summary["wanted"]:
        return "Degraded"
    return str(rollout["state"])


def _workload(item: Item) -> tuple[str, ...]:
    summary, record = item["summary"], item["record"]
    target = (item.get("revision") or {}).get("document", {}).get("spec", {})
    word = render.state(rollout_word(item))
    return (
        item["name"],
        str(target.get("type", "-")),
        f"{summary['ready']}/{summary['wanted']}",
        str(record["revision"]),
        str(item.get("virtualIp") or "-"),
        word,
        render.age(record.get("createdAt")),
    )


def _workload_wide(item: Item) -> tuple[str, ...]:
    revision = item.get("revision") or {}
    ports = ((revision.get("loadBalancer") or {}).get("spec") or {}).get("ports", ())
    shown = ",".join(f"{port['port']}/{port['protocol']}" for port in ports)
    source = revision.get("document", {}).get("spec", {}).get("source", {})
    return (shown or "-", str(source.get("image", "-")))


def _instance(item: Item) -> tuple[str, ...]:
    status = item.get("status") or {}
    why = status.get("reason") or item["record"].get("unplaceable") or status.get("message") or ""
    return (
        item["name"],
        "yes" if item["ready"] else "no",
        render.state(item["phase"]),
        str(status.get("restarts", 0)),
        str(status.get("address") or "-"),
        str(item.get("node") or "-"),
        render.age(item["record"].get("createdAt")),
        render.clean(why) or "-",
    )


def _instance_wide(item: Item) -> tuple[str, ...]:
    status = item.get("status") or {}
    code = status.get("exitCode")
    return (
        str(item["record"]["revision"]),
        "-" if code is None else str(code),
        str(status.get("pid") or "-"),
        render.clean(status.get("message") or "-"),
    )


def _closed(record: Item) -> str:
    if record.get("draining"):
        return ",draining"
    return ",cordoned" if record.get("cordoned") else ""


def _pressed(report: Item) -> str:
    found = [each["type"] for each in report.get("conditions", ()) if each["status"]]
    return "".join(f",{render.clean(each)}" for each in found if each.endswith("Pressure"))


def _node(item: Item) -> tuple[str, ...]:
    record, report = item["record"], item.get("report") or {}
    state = render.state("Ready" if item["ready"] else "NotReady") + _closed(record) + _pressed(report)
    return (
        item["name"],
        state,
        str(record["role"]),
        str(next(iter(report.get("addresses", ())), "-")),
        str(record.get("subnet") or "-"),
        *_load(item),
        str(report.get("versions", {}).get("agent", "-")),
        render.age(record.get("createdAt")),
    )


def _load(item: Item) -> tuple[str, str, str]:
    """Show how many instances a node has, and the share of its room that they ask for."""
    load, room = item.get("load") or {}, (item.get("report") or {}).get("allocatable") or {}
    shares = (
        f"{100 * load.get(part, 0) / room[part]:.0f}%" if room.get(part) else "-"
        for part in ("cpuMillicores", "memoryBytes")
    )
    return (str(load.get("instances", 0)), *shares)  # type: ignore[return-value]  # two shares


def _node_wide(item: Item) -> tuple[str, ...]:
    report = item.get("report") or {}
    room = report.get("allocatable") or {}
    return (
        ",".join(report.get("addresses", ())) or "-",
        f"{room.get('cpuMillicores', 0) / 1000:g}",
        render.size(room.get("memoryBytes", 0)),
        render.clean(str(report.get("versions", {}).get("os", "-"))),
    )


def _event(item: Item) -> tuple[str, ...]:
    event = item["event"]
    return (
        render.age(event["lastAt"]),
        render.state(event["type"]),
        event["reason"],
        f"{event['objectKind'].lower()}/{event['objectName']}",
        str(event["count"]),
        render.clean(event["message"]),
    )


def _event_wide(item: Item) -> tuple[str, ...]:
    return (render.age(item["event"]["firstAt"]), str(item["event"].get("source") or "-"))


def _revision(item: Item) -> tuple[str, ...]:
    revision = item["revision"]
    source = revision["document"]["spec"].get("source", {})
    return (
        item["name"],
        render.age(revision["createdAt"]),
        str(revision.get("createdBy") or "-"),
        str(revision["cause"]),
        str(source.get("image", "-")),
    )


KINDS: Final = (
    Kind(
        "workloads", "workload", ("wl", "w"), True,
        ("NAME", "TYPE", "READY", "REVISION", "VIRTUAL-IP", "STATE", "AGE"), _workload,
        ("PORTS", "IMAGE"), _workload_wide,
    ),
    Kind(
        "instances", "instance", ("inst", "in", "i"), True,
        ("NAME", "READY", "PHASE", "RESTARTS", "ADDRESS", "NODE", "AGE", "WHY"), _instance,
        ("REVISION", "EXIT", "PID", "MESSAGE"), _instance_wide,
    ),
    Kind(
        "nodes", "node", ("no",), False,
        ("NAME", "STATE", "ROLE", "ADDRESS", "SUBNET", "INSTANCES", "CPU", "MEMORY", "VERSION", "AGE"), _node,
        ("ALL ADDRESSES", "CORES", "ROOM", "OS"), _node_wide,
    ),
    Kind(
        "namespaces", "namespace", ("ns",), False, ("NAME", "ISOLATION"),
        lambda item: (item["name"], item["document"]["spec"]["isolation"]),
    ),
    Kind(
        "events", "event", ("ev",), True,
        ("LAST", "TYPE", "REASON", "OBJECT", "COUNT", "MESSAGE"), _event,
        ("FIRST", "SOURCE"), _event_wide,
    ),
    Kind(
        "revisions", "revision", ("rev",), True,
        ("NAME", "AGE", "BY", "CAUSE", "IMAGE"), _revision,
    ),
)  # fmt: skip
"""Every kind."""
