"""lab: a cluster of several nodes on this one machine, to try KAT and to see what it does when something breaks."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from kat_platform.cli import render
from kat_platform.errors import HostNotReady, UsageError

if TYPE_CHECKING:
    from kat_platform.lab.machine import Machine
    from kat_platform.lab.plan import Lab

_lab = click.option("--name", "lab_name", default="lab", show_default=True, help="Name of the lab.")
_part = click.option(
    "--only", "part", type=click.Choice(["all", "agent", "store"]), default="all", help="Only this part of the node."
)
_node = click.argument("node")


@click.group("lab")
def lab() -> None:
    """Make a cluster of several nodes on this machine, and break it."""


def _root() -> None:
    if os.geteuid() != 0:
        raise HostNotReady("a lab is made of network namespaces and containers: that takes root", hint="use sudo")


def _machine(lab_name: str, node: str) -> Machine:
    from kat_platform.lab.home import Home
    from kat_platform.lab.machine import Machine

    _root()
    home = Home(lab_name)
    found = home.load()
    return Machine(home, found, found.find(node))


def _say(began: float) -> Any:
    return lambda text: click.echo(f"{time.monotonic() - began:5.1f} s  {text}", err=True)


@lab.command("up")
@click.option("--nodes", type=int, default=3, show_default=True, help="How many nodes.")
@click.option("--control-plane", type=int, default=1, show_default=True, help="How many of them are control plane.")
@click.option("--config", type=click.Path(path_type=Path, exists=True), help="cluster.kat for the lab.")
@click.option("--disk", "disk_mib", type=int, metavar="MIB", help="Give each node a disk of its own of this size.")
@_lab
def up(nodes: int, control_plane: int, config: Path | None, disk_mib: int | None, lab_name: str) -> None:
    """Make a lab and wait until all of its nodes are ready."""
    from kat_platform.lab.build import bring_up

    _root()
    began = time.monotonic()
    try:
        made = bring_up(
            lab_name, nodes=nodes, control_plane=control_plane, config=config, say=_say(began), disk_mib=disk_mib
        )
    except KeyboardInterrupt:
        click.echo(f"interrupted: 'katcall lab down --name {lab_name}' takes away what was made", err=True)
        raise
    click.echo(f"lab '{made.name}' is up: {len(made.nodes)} nodes in {time.monotonic() - began:.0f} s")
    click.echo(f"katcall talks to it now (context '{made.context}'); try: katcall node ls")


@lab.command("down")
@click.option("--all", "every", is_flag=True, help="Every lab on this machine.")
@_lab
def down(every: bool, lab_name: str) -> None:
    """Take a lab away, with everything that was made for it; also one that never came up."""
    from kat_platform.lab import build, home

    _root()
    chosen = sorted({*home.names(), *build.strays()}) if every else [lab_name]
    for name in chosen:
        if not build.take_down(name, say=_say(time.monotonic())):
            click.echo(f"there is no lab '{name}'")


@lab.command("ls")
@click.option("-o", "--output", default="table", help="table, json, yaml, name or jsonpath=TEMPLATE.")
def ls(output: str) -> None:
    """List the labs on this machine with their nodes."""
    from kat_platform.lab import disk, home, trouble
    from kat_platform.lab.machine import Machine

    render.check_format(output)
    items = []
    for name in home.names():
        found = home.Home(name).load()
        for node in found.nodes:
            machine = Machine(home.Home(name), found, node)
            items.append(
                {
                    "kind": "LabNode",
                    "lab": name,
                    "name": node.name,
                    "role": node.role.value,
                    "address": str(node.address),
                    "state": machine.state(),
                    "link": trouble.say(node),
                    "disk": "full" if disk.is_full(machine.home.data(node)) else "",
                    "dataPath": str(machine.home.data(node)),
                }
            )
    text = render.structured(output, {"kind": "List", "items": items})
    if text is None:
        columns = ("lab", "name", "role", "address", "state", "link", "disk")
        rows = [tuple(item[column] or "-" for column in columns) for item in items]
        text = render.table(("LAB", "NODE", "ROLE", "ADDRESS", "STATE", "LINK", "DISK"), rows)
    click.echo(text)


@lab.command("kill")
@_node
@_part
@_lab
def kill(node: str, part: str, lab_name: str) -> None:
    """End a node as a power cut does, or only its agent or its store as a crash does."""
    from kat_platform.lab.machine import Part

    _machine(lab_name, node).kill(Part(part))
    click.echo(f"{node}: killed" if part == "all" else f"{node}: {part} killed")


@lab.command("wipe")
@_node
@_lab
def wipe(node: str, lab_name: str) -> None:
    """Lose a node with its disk, and have an empty machine in its place, without an agent."""
    from kat_platform.lab.build import wipe as lose

    lose(_machine(lab_name, node))
    click.echo(f"{node}: an empty machine now; 'katcall lab exec {node}' runs commands on it")


@lab.command("stop")
@_node
@_part
@_lab
def stop(node: str, part: str, lab_name: str) -> None:
    """Shut a node down in order and switch it off; with --only agent its containers go on."""
    from kat_platform.lab.machine import Part

    if part == "store":
        raise UsageError("the store ends with its agent: use --only agent, or kill --only store")
    _machine(lab_name, node).stop(Part(part))
    click.echo(f"{node}: stopped" if part == "all" else f"{node}: agent stopped, containers go on")


@lab.command("start")
@_node
@click.option(
    "--python", type=click.Path(path_type=Path), help="Python of another installation of KAT to run its agent with."
)
@_lab
def start(node: str, python: Path | None, lab_name: str) -> None:
    """Switch a node on, or only start its agent where the node is on. --python stays until another one is given."""
    from kat_platform.lab.build import install, switch_on

    machine = _machine(lab_name, node)
    switch_on(machine if python is None else install(machine, python))
    click.echo(f"{node}: started")


@lab.command("pause")
@_node
@_part
@_lab
def pause(node: str, part: str, lab_name: str) -> None:
    """Freeze a node, or only its agent or store, as a host that hangs does."""
    from kat_platform.lab.machine import Part

    _machine(lab_name, node).pause(Part(part))
    click.echo(f"{node}: frozen until 'katcall lab resume {node}'")


@lab.command("resume")
@_node
@_lab
def resume(node: str, lab_name: str) -> None:
    """Let a frozen node go on."""
    _machine(lab_name, node).resume()
    click.echo(f"{node}: goes on")


def _disturb(machine: Machine, changed: Lab) -> None:
    """Write down what is wrong with the cables now, and make it so on every node that is on."""
    from kat_platform.lab import wires

    before = {node.name: node for node in machine.lab.nodes}
    for node in changed.nodes:
        if node != before[node.name] and changed.namespace(node) in wires.namespaces_of(changed.name):
            wires.apply_trouble(changed, node)
    machine.home.save(changed)


@lab.command("cut")
@_node
@click.option("--from", "others", multiple=True, metavar="NODE", help="Only from this node (repeatable).")
@click.option("--port", "ports", type=int, multiple=True, help="Only connections to this TCP port (repeatable).")
@_lab
def cut(node: str, others: tuple[str, ...], ports: tuple[int, ...], lab_name: str) -> None:
    """Cut a node off the network, silently, as a broken switch does; that lasts over its restarts."""
    from kat_platform.lab import trouble

    machine = _machine(lab_name, node)
    _disturb(machine, trouble.cut(machine.lab, machine.node, map(machine.lab.find, others), ports))
    click.echo(f"{node}: cut off until 'katcall lab heal {node}'")


@lab.command("slow")
@_node
@click.option("--delay", type=click.IntRange(1, 10000), help="Milliseconds each way (needs netem in the kernel).")
@click.option("--loss", type=click.IntRange(1, 99), help="Percent of the packets to it that are lost.")
@click.option("--kbytes", type=click.IntRange(1, 10**6), help="Kilobytes a second towards it, at most.")
@_lab
def slow(node: str, delay: int | None, loss: int | None, kbytes: int | None, lab_name: str) -> None:
    """Make a node's link bad."""
    from kat_platform.lab import trouble

    if not (delay or loss or kbytes):
        raise UsageError("say what is bad about the link: --delay, --loss or --kbytes")
    machine = _machine(lab_name, node)
    _disturb(machine, trouble.slow(machine.lab, machine.node, delay_ms=delay, loss=loss, kbytes=kbytes))
    click.echo(f"{node}: slow until 'katcall lab heal {node}'")


@lab.command("fill")
@_node
@_lab
def fill(node: str, lab_name: str) -> None:
    """Leave no room on a node's disk; the lab must have been made with --disk."""
    from kat_platform.lab import disk

    machine = _machine(lab_name, node)
    disk.fill(machine.home, machine.lab, machine.node)
    click.echo(f"{node}: its disk is full until 'katcall lab heal {node}'")


@lab.command("heal")
@_node
@_lab
def heal(node: str, lab_name: str) -> None:
    """Mend everything that cut, slow and fill did to a node."""
    from kat_platform.lab import disk, trouble

    machine = _machine(lab_name, node)
    disk.empty(machine.home, machine.node)
    _disturb(machine, trouble.heal(machine.lab, machine.node))
    click.echo(f"{node}: healed")


@lab.command("readdress")
@click.argument("node", required=False)
@_lab
def readdress(node: str | None, lab_name: str) -> None:
    """Give a node another address, also while it runs; or all nodes, which must be off, another network."""
    from kat_platform.lab.build import readdress as change
    from kat_platform.lab.home import Home

    _root()
    home = Home(lab_name)
    found = home.load()
    made = change(home, found.find(node) if node else None)
    for each in made.nodes:
        if node in (None, each.name):
            click.echo(f"{each.name}: {found.find(each.name).address} became {each.address}")


@lab.command("exec", context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
@_lab
@_node
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
def execute(lab_name: str, node: str, command: tuple[str, ...]) -> None:
    """Run a command on a node: in its network, with the host's files."""
    from kat_platform.lab.shell import inside

    machine = _machine(lab_name, node)
    words = inside(machine.namespace, *(command[1:] if command[0] == "--" else command))
    sys.stdout.flush()
    os.execvpe(words[0], words, machine.environment)
