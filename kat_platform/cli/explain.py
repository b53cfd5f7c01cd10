"""explain: what a field of a document means, from the very models that check it."""

from __future__ import annotations

import click

from kat_platform.cli import render


@click.command("explain")
@click.argument("field")
def explain(field: str) -> None:
    """Say what FIELD means, such as workload.spec.replicas, and what may stand there. Needs no cluster."""
    from kat_platform.model.explain import explain as look_up

    found = look_up(field)
    click.echo(render.paint(found.path, "bold"))
    facts = [found.type]
    if found.required:
        facts.append("required")
    elif found.default is not None:
        facts.append(f"default {found.default}")
    click.echo(f"  {', '.join(facts)}")
    if found.description:
        click.echo(f"  {found.description}")
    if found.children:
        rows = [
            (f"  {child.name}", child.type, "required" if child.required else child.default or "-", child.description)
            for child in found.children
        ]
        click.echo("")
        click.echo(render.table(("  FIELD", "TYPE", "DEFAULT", "MEANING"), rows))
