"""plugin: what is installed, chosen, or refused and why; checking one against its contract, and beginning one."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from kat_platform.cli import render
from kat_platform.cli.session import Session, talks
from kat_platform.errors import KatError, NotFound, NotSupportedYet, UsageError

if TYPE_CHECKING:
    from kat_platform.testing.conformance.kit import Outcome


@click.group("plugin")
def plugin() -> None:
    """Look at plugins, check them, and begin one."""


@plugin.command("ls")
@click.option("--local", is_flag=True, help="What is installed here, with the default choice; needs no cluster.")
@click.option("-o", "--output", default="table", help="table, json, yaml, name or jsonpath=TEMPLATE.")
@talks
def ls(session: Session, local: bool, output: str) -> int:
    """List plugins: installed, chosen, or refused and why. Exit code 1 when an agent would not start with them."""
    render.check_format(output)
    report = _local() if local else _of_cluster(session)
    text = render.structured(output, report)
    if text is not None:
        click.echo(text)
    elif output == "name":
        click.echo("\n".join(f"{row['group'].removeprefix('kat.')}/{row['name']}" for row in report["plugins"]))
    else:
        _table(report)
    return 0 if report.get("usable", True) else 1


def _of_cluster(session: Session) -> dict[str, Any]:
    try:
        found: dict[str, Any] = session.client.get("plugins")
    except KatError as error:
        click.echo(f"warning: {error.message}; this is what is installed here", err=True)
        return _local()
    return found


def _local() -> dict[str, Any]:
    from kat_platform.interfaces.driver import Capability
    from kat_platform.model.cluster import PluginChoice
    from kat_platform.registry.catalog import Catalog
    from kat_platform.registry.report import inspect_plugins

    choice = PluginChoice()
    chosen = {capability: getattr(choice, capability.value) for capability in Capability}
    return inspect_plugins(chosen, {}, Catalog.read()).to_wire()


def _table(report: dict[str, Any]) -> None:
    rows = []
    for row in report["plugins"]:
        powers = ", ".join(k if v is True else f"{k}={v}" for k, v in row["capabilities"].items() if v is not False)
        kind = row["group"].removeprefix("kat.")
        state = render.state(row["state"])
        rows.append((kind, row["name"], state, row["version"], row["apiVersion"] or "-", row["distribution"], powers))
    click.echo(render.table(("KIND", "NAME", "STATE", "VERSION", "API", "DISTRIBUTION", "CAPABILITIES"), rows))
    faults = [fault for row in report["plugins"] for fault in row["faults"]] + list(report.get("faults", ()))
    for fault in faults:
        text = f"{fault.get('name', '')}: {fault.get('problem', '')} ({fault.get('remedy', '')})"
        click.echo(render.clean(text), err=True)


@plugin.command("check")
@click.argument("name")
@click.option("--capability", help="Which of its capabilities, where NAME has several.")
@click.option("--config", "config", help="Its settings as JSON, as in pluginConfig.NAME.")
@click.option("-o", "--output", type=click.Choice(["table", "json"]), default="table")
def check(name: str, capability: str | None, config: str | None, output: str) -> int:
    """Run the conformance kit of its capability against the installed plugin NAME. Exit code 1 when it fails."""
    from pydantic import ValidationError

    from kat_platform.hooks.specs import GROUP
    from kat_platform.interfaces.driver import Capability
    from kat_platform.registry.catalog import Catalog
    from kat_platform.testing.conformance import capabilities_named, run_for_driver, run_for_hooks

    catalog = Catalog.read()
    offered: list[Capability | str] = [*capabilities_named(name, catalog)]
    offered += ["hooks"] if catalog.named(GROUP, name) else []
    found = [each for each in offered if capability in (None, str(each))]
    if not found:
        names = sorted({entry.name for entry in catalog.entries})
        raise NotFound(f"no plugin '{name}' is installed", hint=f"there are: {', '.join(names) or 'none'}")
    if len(found) > 1:
        raise UsageError(f"'{name}' has several capabilities", hint=f"--capability {'|'.join(found)}")

    def told(outcome: Outcome) -> None:
        if output == "table":
            mark = render.paint("ok  ", "green") if outcome.passed else render.paint("FAIL", "red")
            click.echo(f"{mark}  {outcome.rule}" + ("" if outcome.passed else f"\n      {outcome.failure}"))

    try:
        settings = json.loads(config) if config else {}
        kind = found[0]
        if isinstance(kind, Capability):
            running = run_for_driver(kind, name, catalog=catalog, settings=settings, told=told)
        else:
            running = run_for_hooks(name, catalog=catalog, settings=settings, told=told)
        outcomes = asyncio.run(running)
    except (ValidationError, ValueError) as error:
        raise UsageError(f"these settings are not valid: {error}") from None
    failed = [outcome for outcome in outcomes if not outcome.passed]
    if output == "json":
        checks = [{"check": o.check, "rule": o.rule, "passed": o.passed, "failure": o.failure} for o in outcomes]
        click.echo(
            json.dumps({"plugin": name, "capability": found[0], "passed": not failed, "checks": checks}, indent=2)
        )
    else:
        click.echo(f"{len(outcomes) - len(failed)} of {len(outcomes)} checks passed")
    return 1 if failed else 0


@plugin.command("new")
@click.argument("capability")
@click.argument("name")
@click.option("--dir", "folder", type=click.Path(path_type=Path), help="Folder to write; ./NAME by default.")
def new(capability: str, name: str, folder: Path | None) -> int:
    """Begin a plugin: a complete distribution NAME, whose tests pass. CAPABILITY is scheduler or hooks."""
    from kat_platform.cli import scaffold
    from kat_platform.interfaces.driver import Capability

    if capability not in scaffold.KINDS:
        known = " or ".join(scaffold.KINDS)
        if capability in list(Capability):
            raise NotSupportedYet(
                f"'katcall plugin new {capability}' is not supported yet",
                hint=f"it writes {known}; for a {capability}, begin with docs/writing-a-plugin.md and KAT's own plugin",
            )
        raise UsageError(f"there is no capability '{capability[:40]}'", hint=f"{known}")
    target = folder or Path(name)
    for written in scaffold.write(capability, name, target):
        click.echo(f"wrote {target / written}")
    click.echo(f"next: read {target / 'README.md'}, and try it: cd {target} && python -m pytest")
    return 0
