"""node drain: empty a node, showing how far it is and what keeps each instance."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Final

import click

from kat_platform.cli import render
from kat_platform.cli.session import Duration, Session, talks
from kat_platform.errors import Conflict, TimedOut, Unavailable

POLL_SECONDS: Final = 0.5
PATIENCE_SECONDS: Final = 30.0
"""How long an API is waited for that is away: its own node may be the one that is drained."""

Progress = dict[str, Any]


@click.command("drain")
@click.argument("name")
@click.option("--timeout", type=Duration(), default="10m", show_default=True, help="How long to wait at most.")
@click.option("--include-daemons", is_flag=True, help="Stop instances of DaemonServices too, until uncordon.")
@click.option("--ignore-pinned", is_flag=True, help="Be content although instances whose data lies there stay.")
@click.option("--no-wait", is_flag=True, help="Only ask for it.")
@talks
def drain(
    session: Session, name: str, timeout: float, include_daemons: bool, ignore_pinned: bool, no_wait: bool
) -> None:
    """Move the instances of a node to others, within the update rules of their workloads, and wait for it.

    The node takes no new instances until 'node uncordon', which also ends a drain that is going on. Instances of
    DaemonServices stay, unless asked for. An instance whose data lies on the node cannot move and goes on running.
    """
    found = session.client.post("nodes", name, "drain", body={"includeDaemons": include_daemons})
    if no_wait:
        click.echo(f"node/{name} is being drained: {left_text(found)}")
        return
    hint = f"the drain goes on; 'katcall node uncordon {name}' ends it"
    wait_drained(lambda: session.client.get("nodes", name, "drain"), found, timeout, hint, ignore_pinned=ignore_pinned)
    click.echo(f"node/{name} is drained")


def wait_drained(
    look: Callable[[], Progress], found: Progress, timeout: float, hint: str, *, ignore_pinned: bool = False
) -> None:
    """Show how far a drain is until nothing is left; raises ``TimedOut`` with ``hint`` after ``timeout`` seconds."""
    name = found["node"]
    started = time.monotonic()
    shown: dict[str, str] = {}
    while True:
        _show(found, shown, time.monotonic() - started)
        if verdict(found, ignore_pinned=ignore_pinned):
            return
        left = started + timeout - time.monotonic()
        if left <= 0:
            text = f"node {name} is not drained after {render.span(timeout)}: {left_text(found)}"
            raise TimedOut("\n".join([text, *reasons(found)]), hint=hint)
        time.sleep(min(POLL_SECONDS, left))
        found = _patiently(look)


def _patiently(look: Callable[[], Progress]) -> Progress:
    lost = time.monotonic()
    while True:
        try:
            return look()
        except (Unavailable, TimedOut):
            if time.monotonic() - lost > PATIENCE_SECONDS:
                raise
            time.sleep(POLL_SECONDS)


def verdict(found: Progress, *, ignore_pinned: bool) -> bool:
    """Tell whether a drain is at its end; raises ``Conflict`` when it never will be."""
    if not found["draining"]:
        raise Conflict(f"the drain of node {found['node']} was ended by somebody else (node uncordon)")
    left = found["left"] - found["pinned"]
    if left > 0:
        return False
    if found["pinned"] and not ignore_pinned:
        text = f"{found['pinned']} instances cannot leave node {found['node']}, all others have"
        hint = "they go on running there; with --ignore-pinned that is good enough"
        raise Conflict("\n".join([text, *reasons(found)]), hint=hint)
    return True


def left_text(found: Progress) -> str:
    """Say how many instances are left."""
    text = f"{found['left']} instance{'s' * (found['left'] != 1)} left"
    return text + (f", {found['pinned']} of them cannot move" if found["pinned"] else "")


def reasons(found: Progress) -> list[str]:
    """Say of each instance that is waited for what keeps it."""
    items = [item for item in found["instances"] if item["state"] != "Staying"]
    return [render.clean(f"  {item['namespace']}/{item['instance']}: {_words(item)}") for item in items[:20]]


def _words(item: dict[str, Any]) -> str:
    return f"{item['state']}: {item['reason']}" if item.get("reason") else str(item["state"])


def _show(found: Progress, shown: dict[str, str], elapsed: float) -> None:
    there = {f"{item['namespace']}/{item['instance']}": _words(item) for item in found["instances"]}
    for name in [*there, *(name for name in shown if name not in there)]:
        words = there.get(name, "gone")
        if shown.get(name) != words:
            click.echo(f"  {elapsed:6.1f}s  {name:<32} {render.clean(words)}  [{found['left']} left]", err=True)
            shown[name] = words
