"""lint: check Quadlets offline."""

from __future__ import annotations

import json
from dataclasses import asdict

import click

from kat_platform.cli import render
from kat_platform.cli.apply import read_source


@click.command("lint")
@click.argument("sources", metavar="FOLDER...", nargs=-1)
@click.option("-f", "--file", "files", multiple=True, help="Folder, .kat file, .tar.gz, or - for standard input.")
@click.option("--strict", is_flag=True, help="Take warnings for errors.")
@click.option("-o", "--output", type=click.Choice(["table", "json"]), default="table")
def lint(sources: tuple[str, ...], files: tuple[str, ...], strict: bool, output: str) -> int:
    """Check the Quadlets in FOLDERs, or a cluster.kat, without a cluster. Exit code 1 when there are errors."""
    from kat_platform.quadlet.archive import unpack
    from kat_platform.quadlet.lint import lint as look

    wanted = (*sources, *files) or (".",)
    found = []
    for source in wanted:
        given = read_source(source)
        content = unpack(given) if isinstance(given, bytes) else given
        prefix = f"{source.rstrip('/')}/" if len(wanted) > 1 else ""
        found += [{**asdict(problem), "file": prefix + problem.file} for problem in look(content)]
    errors = [problem for problem in found if problem["severity"] == "error" or strict]
    if output == "json":
        click.echo(json.dumps({"problems": found}, indent=2))
    else:
        for problem in found:
            click.echo(render.problem_line(problem))
        if not found:
            click.echo("no problems found")
    return 1 if errors else 0
