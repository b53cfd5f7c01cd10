"""Progress: waiting for a workload, telling what happens meanwhile, and why when it does not happen."""

from __future__ import annotations

import queue
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import click

from kat_platform.cli import render
from kat_platform.cli.client import Client, at
from kat_platform.cli.follow import watch_many
from kat_platform.errors import Conflict, KatError, NotFound, TimedOut


@dataclass(slots=True)
class Picture:
    """What is known of a workload while it is waited for."""

    workload: dict[str, Any] | None = None
    seen: bool = False
    instances: dict[str, dict[str, Any]] = field(default_factory=dict)
    warnings: dict[str, dict[str, Any]] = field(default_factory=dict)
    listed: set[str] = field(default_factory=set)

    def take(self, name: str, line: dict[str, Any]) -> None:
        """Take a line of one of the watches."""
        item = line["object"]
        if line["type"] == "BOOKMARK":
            self.listed.add(name)
        elif name == "workload":
            self.workload = None if line["type"] == "DELETED" else item
            self.seen = self.seen or self.workload is not None
        elif name == "instances":
            if line["type"] == "DELETED":
                self.instances.pop(item["name"], None)
            else:
                self.instances[item["name"]] = item
        elif line["type"] != "DELETED" and item["event"]["type"] == "Warning":
            self.warnings[item["name"]] = item["event"]

    def reasons(self) -> list[str]:
        """Say what is known of why it is not ready."""
        found: list[str] = []
        message = ((self.workload or {}).get("rollout") or {}).get("message")
        if message:
            found.append(str(message))
        for name, item in sorted(self.instances.items()):
            status = item.get("status") or {}
            why = status.get("message") or item["record"].get("unplaceable") or ""
            if not item["ready"] and item["record"].get("desired") == "Run":
                reason = f"{status['reason']}: " if status.get("reason") else ""
                found.append(f"{name} is {item['phase']}{f' ({reason}{why})' if reason or why else ''}")
        for event in sorted(self.warnings.values(), key=lambda event: event["lastAt"])[-5:]:
            found.append(f"{event['objectName']}: {event['reason']}: {event['message']}")
        return [render.clean(line) for line in dict.fromkeys(found)]


Done = Callable[[Picture], bool]


def rolled_out(revision: int, generation: int) -> Done:
    """Tell when a workload has arrived at a revision; raises when it never will."""

    def done(picture: Picture) -> bool:
        item = picture.workload
        if item is None:
            if picture.seen:
                raise Conflict("the workload was deleted meanwhile")
            return False
        record, rollout, summary = item["record"], item.get("rollout") or {}, item["summary"]
        if record.get("deleting"):
            raise Conflict("the workload is being deleted")
        if record["revision"] != revision:
            made = item.get("revision") or {}
            if made.get("createdBy") == "leader":
                raise KatError(f"the rollout of revision {revision} failed: {made.get('cause', 'it was rolled back')}")
            raise Conflict(f"revision {record['revision']} has taken the place of revision {revision}")
        if rollout.get("revision") != revision or rollout.get("generation", 0) < generation:
            return False
        if rollout["state"] == "Paused":
            because = f": {rollout['message']}" if rollout.get("message") else ""
            raise KatError(f"the rollout is paused{because}")
        if rollout["state"] == "RolledBack":
            raise KatError(f"the rollout was rolled back: {rollout.get('message', '')}")
        return bool(rollout["state"] == "Complete" and summary["ready"] >= summary["wanted"])

    return done


def ready(picture: Picture) -> bool:
    """Tell when a workload has all the instances it should, ready, of whatever revision is its target."""
    item = picture.workload
    return item is not None and rolled_out(item["record"]["revision"], item["record"]["generation"])(picture)


def gone(picture: Picture) -> bool:
    """Tell when a workload is gone."""
    return "workload" in picture.listed and picture.workload is None


def wait_for(
    client: Client, namespace: str, name: str, done: Done, *, what: str, timeout: float, quiet: bool = False
) -> Picture:
    """Wait until ``done``; shows each instance's phases as they change. Raises ``TimedOut`` with the reasons."""
    collection = at("namespaces", namespace)
    found = watch_many(
        client,
        {
            "workload": (f"{collection}/workloads", {}),
            "instances": (f"{collection}/instances", {"workload": name}),
            "events": (f"{collection}/events", {"workload": name}),
        },
    )
    picture, started = Picture(), time.monotonic()
    shown: dict[str, str] = {}
    began = time.time()
    while True:
        left = started + timeout - time.monotonic()
        try:
            source, line = found.get(timeout=max(0.0, min(left, 1.0)))
        except queue.Empty:
            source, line = "", None
        if isinstance(line, KatError):
            raise line
        if line is not None and _about(source, line, name, began):
            picture.take(source, line)
            if not quiet:
                _show(picture, shown, source, line, time.monotonic() - started)
        try:
            if {"workload", "instances"} <= picture.listed and done(picture):
                return picture
        except KatError as error:
            if isinstance(error, Conflict | NotFound):
                raise
            raise KatError(_with_reasons(error.message, picture)) from None
        if left <= 0:
            text = f"{name} is not {what} after {render.span(timeout)}"
            raise TimedOut(_with_reasons(text, picture), hint=f"katcall describe workload {name} -n {namespace}")


def _about(source: str, line: dict[str, Any], name: str, began: float) -> bool:
    item = line["object"]
    if item is None:
        return True
    if source == "workload":
        return bool(item["name"] == name)
    return source != "events" or line["type"] == "DELETED" or item["event"]["lastAt"] >= began - 5


def _with_reasons(text: str, picture: Picture) -> str:
    return "\n".join([text, *(f"  {reason}" for reason in picture.reasons())])


def _show(picture: Picture, shown: dict[str, str], source: str, line: dict[str, Any], elapsed: float) -> None:
    if source != "instances" or line["object"] is None:
        return
    name = line["object"]["name"]
    if line["type"] == "DELETED":
        words = "gone"
    else:
        item = picture.instances[name]
        status = item.get("status") or {}
        why = status.get("reason") or item["record"].get("unplaceable") or ""
        words = item["phase"] + (", ready" if item["ready"] else "") + (f" ({why})" if why else "")
        if not item["ready"] and item["record"].get("desired") == "Stop" and item["phase"] != "Stopping":
            words = "gone" if item["phase"] in ("Stopped", "Succeeded", "Failed") else words
    if shown.get(name) == words:
        return
    shown[name] = words
    item = picture.workload or {}
    summary = item.get("summary") or {}
    count = f"{summary.get('ready', 0)}/{summary.get('wanted', 0)}"
    click.echo(f"  {elapsed:6.1f}s  {name:<24} {render.clean(words)}  [{count} ready]", err=True)
