"""endpoint: tell a node where one control-plane node is now, when every address it knows is out of date."""

from __future__ import annotations

from pathlib import Path

import click


@click.command("endpoint")
@click.argument("address")
@click.option(
    "--data-path", envvar="KAT_DATA_PATH", type=click.Path(path_type=Path), default="/var/lib/kat", show_default=True
)
def endpoint(address: str, data_path: Path) -> None:
    """Tell this node where a control-plane node is now: ADDRESS is HOST or HOST:PORT. Whether its agent runs or not.

    For when all machines have come back with other addresses: say it on each node but that one.
    """
    from urllib.parse import urlsplit

    from kat_platform.agent.given import Given, give
    from kat_platform.agent.join import api_url
    from kat_platform.agent.local import Places, load_node

    places = Places(data_path)
    node = load_node(places)
    default = node.configuration.spec.api_port
    parts = urlsplit(api_url(address if ":" in address else f"{address}:{default}"))
    found = Given(host=parts.hostname or "", port=parts.port or default)
    give(places, found)
    click.echo(f"node '{node.node_name}' looks for its cluster at {found.host} until that has told the other addresses")
