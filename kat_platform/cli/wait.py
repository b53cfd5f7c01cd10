"""wait: for a workload to be ready, gone, or in a state."""

from __future__ import annotations

import click

from kat_platform.cli.get import need_workload
from kat_platform.cli.progress import Picture, gone, ready, wait_for
from kat_platform.cli.resources import rollout_word
from kat_platform.cli.session import Duration, Session, split_workload, talks
from kat_platform.errors import UsageError

STATES = ("Complete", "Paused", "Progressing", "RolledBack", "Degraded")


@click.command("wait")
@click.argument("workload")
@click.option(
    "--for",
    "condition",
    default="ready",
    show_default=True,
    help=f"ready, deleted, or condition=STATE with one of {', '.join(STATES)}.",
)
@click.option("--timeout", type=Duration(), default="5m", show_default=True, help="How long to wait at most.")
@talks
def wait(session: Session, workload: str, condition: str, timeout: float) -> None:
    """Wait until WORKLOAD is ready, gone, or in a state. Exit code 6 when it takes too long."""
    name, _ = split_workload(workload)
    if condition in ("deleted", "delete"):
        wait_for(session.client, session.namespace, name, gone, what="gone", timeout=timeout)
        return
    if condition == "ready":
        need_workload(session, name)
        wait_for(session.client, session.namespace, name, ready, what="ready", timeout=timeout)
        return
    word, equals, value = condition.partition("=")
    if word != "condition" or not equals or value not in STATES:
        raise UsageError(f"'{condition}' is nothing to wait for", hint=f"ready, deleted, condition={'|'.join(STATES)}")

    def there(picture: Picture) -> bool:
        return picture.workload is not None and rollout_word(picture.workload) == value

    need_workload(session, name)
    wait_for(session.client, session.namespace, name, there, what=value, timeout=timeout)
