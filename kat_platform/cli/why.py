"""why: every filter's verdict on every node."""

from __future__ import annotations

import click

from kat_platform.cli import render
from kat_platform.cli.client import at
from kat_platform.cli.get import need_workload
from kat_platform.cli.session import Session, split_workload, talks
from kat_platform.errors import UsageError


@click.command("why")
@click.argument("workload")
@click.argument("node", required=False)
@click.option("-o", "--output", default="table", help="table, wide (every filter), json, yaml or jsonpath=TEMPLATE.")
@talks
def why(session: Session, workload: str, node: str | None, output: str) -> None:
    """Show where one more instance of WORKLOAD could go, what stands against each node, and the smallest change."""
    if render.check_format(output) == "name":
        raise UsageError("'name' is no output format of why")
    name, _ = split_workload(workload)
    need_workload(session, name)
    path = at("namespaces", session.namespace, "workloads", name, "why")
    found = session.client.request("GET", path, params={"node": node}).data
    text = render.structured(output, found)
    if text is not None:
        click.echo(text)
        return
    rows: list[tuple[str, str, str, str]] = []
    for each in found["nodes"]:
        verdicts = each["verdicts"] if output == "wide" or node else [v for v in each["verdicts"] if not v["passed"]]
        score = f"fits, score {each['score']:.2f}" if each["fits"] and each["score"] is not None else "fits"
        rows.append((each["node"], score if each["fits"] else "does not fit", "", ""))
        for verdict in verdicts:
            reason = render.clean(verdict["reason"]) or "passes"
            rows.append(("", "", verdict["filter"], reason))
    click.echo(render.table(("NODE", "VERDICT", "FILTER", "REASON"), rows))
    for waiting in found["waiting"]:
        reason = waiting["reason"] or "it has not been looked at yet"
        click.echo(render.clean(f"{waiting['name']} waits for a node: {reason}"))
    if found["remedy"]:
        click.echo(render.clean(f"what would help: {found['remedy']}"))
