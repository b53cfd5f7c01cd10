"""ca: the cluster's certificate authority, and changing it while everything runs."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Final

import click

from kat_platform.cli import render
from kat_platform.cli.session import Duration, Session, talks
from kat_platform.errors import Conflict, KatError, TimedOut

POLL_SECONDS: Final = 0.3
PATIENCE_SECONDS: Final = 30.0
"""How long an API is waited for that is away: control-plane nodes start their stores anew."""
_SHOWN: Final = 5
_LOOK: Final = "'katcall ca status' shows how far it is"

Status = dict[str, Any]


@click.group("ca")
def ca() -> None:
    """Look at the cluster's CA, and change it while everything runs."""


@ca.command("status")
@click.option("-o", "--output", default="table", help="table, json, yaml or jsonpath=TEMPLATE.")
@talks
def status(session: Session, output: str) -> None:
    """Show which CAs are trusted, which one signs, and which nodes a change waits for."""
    render.check_format(output)
    found = _look(session)
    text = render.structured(output, found)
    if text is not None:
        click.echo(text)
        return
    now = time.time()
    rows = [
        (each["fingerprint"][:16], "yes" if each["fingerprint"] == found["signer"] else "", _end(each, now))
        for each in found["authorities"]
    ]
    click.echo(render.table(("FINGERPRINT", "SIGNS", "ENDS"), rows))
    click.echo(stage(found))
    for line in reasons(found):
        click.echo(line)


@ca.command("rotate")
@click.option("--timeout", type=Duration(), default="10m", show_default=True, help="How long to wait at most.")
@click.option("--no-wait", is_flag=True, help="Only begin.")
@click.option("--no-finish", is_flag=True, help="Stop while both CAs are trusted; 'katcall ca finish' does the rest.")
@click.option("--leave-behind", multiple=True, metavar="NODE", help="Do not wait for this worker, which is away.")
@talks
def rotate(session: Session, timeout: float, no_wait: bool, no_finish: bool, leave_behind: tuple[str, ...]) -> None:
    """Change the cluster's CA: a new one is made, trusted beside the present one, takes over, and is then the only one.

    Nothing is restarted but the store's members, one after the other. A node that is away is waited for. The context
    in use is kept up to date; other people run 'katcall context refresh' while both CAs are trusted. Given again, it
    goes on with the change that is going on.
    """
    from kat_platform.cli.refresh import refresh_ca, refresh_context

    body = {"leaveBehind": list(leave_behind)}
    found = _patiently(lambda: session.client.post("ca", "rotation", body=body))
    session.use(refresh_ca(session.client))
    if no_wait:
        click.echo(f"the CA is being changed: {stage(found)}; {_LOOK}")
        return
    deadline = time.monotonic() + timeout
    _wait(session, signed, deadline)
    session.use(refresh_context(session.client))
    click.echo(f"every node has a certificate of the new CA, and context '{session.client.context.name}' too")
    if no_finish:
        click.echo("both CAs are trusted: other people run 'katcall context refresh' now; then 'katcall ca finish'")
        return
    _finish(session, deadline)


@ca.command("finish")
@click.option("--timeout", type=Duration(), default="10m", show_default=True, help="How long to wait at most.")
@click.option("--no-wait", is_flag=True, help="Only ask for it.")
@talks
def finish(session: Session, timeout: float, no_wait: bool) -> None:
    """Drop the former CA, once every node has a certificate of the new one.

    Contexts that were not refreshed, and join tokens made before, end with it.
    """
    from kat_platform.cli.refresh import refresh_context

    deadline = time.monotonic() + timeout
    if not no_wait:
        _wait(session, signed, deadline)
        session.use(refresh_context(session.client))
        _finish(session, deadline)
        return
    _patiently(lambda: session.client.post("ca", "rotation", "finish"))
    click.echo(f"the former CA is dropped as soon as no node needs it; {_LOOK}")


def _finish(session: Session, deadline: float) -> None:
    from kat_platform.cli.refresh import refresh_ca

    _patiently(lambda: session.client.post("ca", "rotation", "finish"))
    _wait(session, settled, deadline)
    session.use(refresh_ca(session.client))
    click.echo("the former CA is not trusted any more; contexts and join tokens made before have ended with it")


def signed(found: Status) -> bool:
    """Tell whether every node has a certificate of the new CA; raises ``Conflict`` when none is being made."""
    if found["phase"] == "Settled":
        raise Conflict("the CA is not being changed", hint="katcall ca rotate begins it")
    return found["phase"] == "Finishing" or (found["phase"] == "Signing" and not found["waiting"])


def settled(found: Status) -> bool:
    """Tell whether the change is through."""
    return bool(found["phase"] == "Settled")


def _wait(session: Session, done: Callable[[Status], bool], deadline: float) -> None:
    began, shown = time.monotonic(), ""
    try:
        while True:
            found = _look(session)
            words = "\n".join([stage(found), *reasons(found)])
            if words != shown:
                shown = words
                click.echo(f"  {time.monotonic() - began:6.1f}s  {words}", err=True)
            if done(found):
                return
            left = deadline - time.monotonic()
            if left <= 0:
                text = "\n".join(["the CA is still being changed", *reasons(found)])
                raise TimedOut(text, hint=f"it goes on; {_LOOK}, and 'katcall ca rotate' waits again")
            time.sleep(min(POLL_SECONDS, left))
    except KeyboardInterrupt:
        click.echo(f"the change of the CA goes on; {_LOOK}, and 'katcall ca rotate' waits again", err=True)
        raise


def _look(session: Session) -> Status:
    found: Status = _patiently(lambda: session.client.get("ca", "rotation"))
    return found


def _patiently(ask: Callable[[], Any]) -> Any:
    """Ask again for a while when no API answers: whatever is asked for here may be asked for twice."""
    lost = time.monotonic()
    while True:
        try:
            return ask()
        except KatError as error:
            if not error.retryable or time.monotonic() - lost > PATIENCE_SECONDS:
                raise
            time.sleep(POLL_SECONDS)


def stage(found: Status) -> str:
    """Say in a line how far a change has come."""
    left = len(found["waiting"])
    nodes = f"{left} node{'s' * (left != 1)}"
    match found["phase"]:
        case "Spreading":
            return f"the new CA is being made known: {nodes} left" if left else "every node trusts the new CA"
        case "Signing" if left:
            return f"the new CA signs: {nodes} without a certificate of it"
        case "Signing":
            wanted = "" if found.get("finishWanted") else "; 'katcall ca finish' drops the former one"
            return f"every node has a certificate of the new CA, and both are trusted{wanted}"
        case "Finishing":
            return f"the former CA is being dropped: {nodes} left" if left else "no node trusts the former CA any more"
    return "one CA is trusted, and no change is going on"


def reasons(found: Status) -> list[str]:
    """Say of each node that is waited for what it lacks; of those that are away what can be done."""
    lines = [
        f"  {each['node']}: {'away; ' if each.get('away') else ''}{each['reason']}"
        for each in found["waiting"][:_SHOWN]
    ]
    if len(found["waiting"]) > _SHOWN:
        lines.append(f"  and {len(found['waiting']) - _SHOWN} more")
    away = [each["node"] for each in found["waiting"] if each.get("away")]
    if away:
        lines.append(f"  bring it back; or leave it out, if it is a worker: katcall ca rotate --leave-behind {away[0]}")
    return [render.clean(line) for line in lines]


def _end(authority: dict[str, Any], now: float) -> str:
    return f"in {render.span(authority['expiresAt'] - now)}"
