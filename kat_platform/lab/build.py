"""Build: brings a whole lab up, and takes one down to the last file, however far it had come."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any, Final

from kat_platform.cli import context as contexts
from kat_platform.cli.client import Client, at
from kat_platform.errors import Conflict, HostNotReady, InvalidInput, KatError, TimedOut
from kat_platform.lab import disk, processes, wires
from kat_platform.lab import home as homes
from kat_platform.lab.home import Home
from kat_platform.lab.machine import Machine, Part, containers_of, remove_tree, unmount_below
from kat_platform.lab.plan import Lab, LabNode, check_lab_name, free_network, plan_lab
from kat_platform.model.node import NodeRole

AT_ONCE: Final = 3
"""Machines that are started at the same time: starting is mostly processor time, of which a laptop has little."""

API_SECONDS: Final = 40.0
READY_SECONDS: Final = 60.0
TOKEN_SECONDS: Final = 900
PROGRAMS: Final = ("ip", "nsenter", "nft")
Say = Callable[[str], None]

DEFAULT_CONFIG: Final = """\
apiVersion: kat.dws.rip/v1alpha1
kind: ClusterConfiguration
metadata: {name: lab}
"""


def bring_up(
    name: str, *, nodes: int, control_plane: int, config: Path | None, say: Say, disk_mib: int | None = None
) -> Lab:
    """Make a lab and wait until every node is ready. What failed half-way stays for a look, until ``take_down``."""
    for program in PROGRAMS:
        if shutil.which(program) is None:
            raise HostNotReady(f"'{program}' is not installed", hint="a lab needs iproute2, util-linux and nftables")
    home = Home(check_lab_name(name))
    with homes.alone("katcall lab up"):
        if home.folder.exists() or wires.namespaces_of(name):
            raise Conflict(f"there is a lab '{name}' already", hint=f"katcall lab down --name {name} takes it away")
        lab = plan_lab(
            name, nodes=nodes, control_plane=control_plane, taken=_taken(), now=time.time(), disk_mib=disk_mib
        )
        current, _ = contexts.load_all()
        lab = lab.model_copy(update={"previous_context": current})
        home.save(lab)
        wires.make_hub(lab)  # its address is what the next lab sees as taken
    home.config.write_text(config.read_text() if config is not None else DEFAULT_CONFIG)
    first = Machine(home, lab, lab.nodes[0])
    first.plug_in()
    say(f"making the cluster on {first.node.name}")
    first.run_agent(
        "init", "--config", str(home.config), "--name", first.node.name, "--data-path", str(home.data(first.node))
    )
    first.start()
    save_context(home, lab)
    context = contexts.load(lab.context)
    # The others are not there yet: to be told so for an address that nobody has takes three seconds.
    client = Client(replace(context, servers=context.servers[:1]))
    _wait_api(first, client)
    others = lab.nodes[1:]
    if others:
        _add_all(home, lab, others, client, say)
    _wait_ready(home, lab, client, say)
    return lab


def _taken() -> list[IPv4Address]:
    from kat_platform.agent.facts import interface_addresses

    return [IPv4Address(address) for _, address in interface_addresses()]


def _add_all(home: Home, lab: Lab, nodes: tuple[LabNode, ...], client: Client, say: Say) -> None:
    server = f"{lab.nodes[0].address}:{_port(client)}"
    for node in nodes:
        Machine(home, lab, node).plug_in()

    def add(node: LabNode, token: str) -> None:
        machine = Machine(home, lab, node)
        data = str(home.data(node))
        machine.run_agent("join", server, "--token", token, "--name", node.name, "--data-path", data)
        machine.start()
        say(f"{node.name} has joined")

    def add_members(token: str, members: list[LabNode]) -> None:
        for node in members:  # the store takes in one member after the other
            add(node, token)
            _wait_one(home, lab, node, client)

    work: list[Callable[[], None]] = []
    tokens: list[str] = []
    for role in NodeRole:
        some = [node for node in nodes if node.role is role]
        if not some:
            continue
        made = client.post("join-tokens", body={"role": role.value, "uses": len(some), "ttlSeconds": TOKEN_SECONDS})
        tokens.append(made["id"])
        if role is NodeRole.CONTROL_PLANE:
            work.insert(0, partial(add_members, made["token"], some))
        else:
            work += [partial(add, node, made["token"]) for node in some]
    side_by_side(lambda each: each(), work)
    for token_id in tokens:
        client.request("DELETE", at("join-tokens", token_id))


def _wait_one(home: Home, lab: Lab, node: LabNode, client: Client) -> None:
    """Wait until a node is ready: one of the control plane then has its vote in the store."""
    deadline = time.monotonic() + READY_SECONDS
    while not client.get("nodes", node.name).get("ready"):
        Machine(home, lab, node).wait_initialised()
        if time.monotonic() > deadline:
            raise TimedOut(f"{node.name} did not become ready within {READY_SECONDS:g} s")
        time.sleep(0.2)


def _port(client: Client) -> int:
    return int(client.context.servers[0].rpartition(":")[2])


def side_by_side(work: Callable[[Any], None], items: Iterable[Any]) -> None:
    """Do something for several machines, a few at a time; raises the first error once all have ended."""
    with ThreadPoolExecutor(AT_ONCE, thread_name_prefix="lab") as pool:
        futures = [pool.submit(work, item) for item in items]
        try:
            errors = [error for future in futures if (error := future.exception()) is not None]
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    if errors:
        raise errors[0]


def readdress(home: Home, node: LabNode | None) -> Lab:
    """Give one machine another address, also while it is on; or all of them, which must be off, another network.

    Raises ``Conflict`` when one of them is on.
    """
    with homes.alone("katcall lab readdress"):
        before = home.load()
        if node is not None:
            lab = before.readdressed(node)
        else:
            on = [each.name for each in before.nodes if Machine(home, before, each).state() != "off"]
            if on:
                raise Conflict(
                    f"{', '.join(on)} of lab '{home.name}' are on: a whole lab moves only while it is off",
                    hint=f"katcall lab kill {on[0]}; or name the node that is to have another address",
                )
            lab = before.moved(free_network([*_taken(), *before.network.hosts()]))
        home.save(lab)
        wires.readdress(before, lab)
    save_context(home, lab, current=contexts.load_all()[0] == lab.context)
    return lab


def save_context(home: Home, lab: Lab, *, current: bool = True) -> None:
    """Give katcall a context for the lab, with the address of every control-plane node."""
    made = json.loads(home.context.read_text())
    given = made["contexts"][made["current"]]
    port = given["servers"][0].rpartition(":")[2]
    servers = tuple(f"https://{node.address}:{port}" for node in lab.nodes if node.role is NodeRole.CONTROL_PLANE)
    contexts.save(
        contexts.Context(lab.context, servers, given["ca"], given["certificate"], given["key"]), current=current
    )


def _wait_api(first: Machine, client: Client) -> None:
    deadline = time.monotonic() + API_SECONDS
    while True:
        try:
            client.get("nodes")
            return
        except KatError as error:
            first.wait_initialised()
            if time.monotonic() > deadline:
                raise TimedOut(f"the API did not answer within {API_SECONDS:g} s: {error.message}") from None
        time.sleep(0.1)


def _wait_ready(home: Home, lab: Lab, client: Client, say: Say) -> None:
    deadline = time.monotonic() + READY_SECONDS
    told: set[str] = set()
    while True:
        ready = {item["name"] for item in client.get("nodes")["items"] if item["ready"]}
        for name in sorted(ready - told):
            say(f"{name} is ready")
        told |= ready
        waiting = [node for node in lab.nodes if node.name not in ready]
        if not waiting:
            return
        for node in waiting:
            Machine(home, lab, node).wait_initialised()
        if time.monotonic() > deadline:
            names = ", ".join(node.name for node in waiting)
            raise TimedOut(f"not ready within {READY_SECONDS:g} s: {names}", hint=f"see {home.folder}/NODE/agent.log")
        time.sleep(0.2)


# --- down --------------------------------------------------------------------------------------------------------


def take_down(name: str, *, say: Say) -> bool:
    """Take a lab away whole, in whatever state it is; tells whether there was anything. Raises what would not go."""
    home = Home(check_lab_name(name))
    try:
        lab: Lab | None = home.load()
    except KatError:
        lab = None
    spaces = wires.namespaces_of(name)
    if lab is None and not spaces and not home.folder.exists() and not home.runs.exists():
        return False
    problems: list[str] = []

    def clear(node: LabNode) -> None:
        assert lab is not None  # there are nodes only where there is a lab
        try:
            _clear(Machine(home, lab, node))
        except KatError as error:
            problems.append(f"{node.name}: {error.message}")

    if lab is not None:
        side_by_side(clear, lab.nodes)
    for space in spaces:
        if left := processes.end_all(space):
            problems.append(f"processes would not end: {left}")
    for folder in (home.folder, home.runs):
        unmount_below(folder)
    for folder in containers_of(home.folder):
        remove_tree(folder)
    wires.remove_all(name)
    if problems:
        raise KatError(f"lab '{name}' is not quite gone: {'; '.join(problems)}", hint="run 'katcall lab down' again")
    home.remove()
    _drop_context(lab.context if lab is not None else f"lab-{name}", lab)
    say(f"lab '{name}' is gone")
    return True


def _clear(machine: Machine) -> None:
    """Let a node's own drivers take away what they made, and whatever is left after that by force."""
    data = machine.home.data(machine.node)
    if machine.home.disk(machine.node).exists():
        disk.attach(machine.home, machine.lab, machine.node)  # a machine that is off has it unmounted
        disk.empty(machine.home, machine.node)
    if machine.tag() is None:  # not a node yet: nothing but processes, mounts and files
        processes.end_all(machine.namespace)
        return
    wires.make_space(machine.lab, machine.node)  # for the drivers to look into; the switch may be gone already
    agent = machine.agent_pid()
    if agent is not None:
        processes.send([agent], signal.SIGKILL)
        processes.wait_gone(agent, 5.0)
    processes.send(machine.pids(Part.ALL), signal.SIGCONT)
    machine.run_agent("reset", "--yes", "--delete-volumes", "--data-path", str(data))
    processes.end_all(machine.namespace)


def _drop_context(name: str, lab: Lab | None) -> None:
    current, known = contexts.load_all()
    contexts.remove_context(name)
    before = lab.previous_context if lab is not None else None
    if current == name and before is not None and before in known and before != name:
        contexts.use(before)


def strays() -> list[str]:
    """Name labs of which there are namespaces but no file any more."""
    pattern = re.compile(r"kl-([a-z][a-z0-9]{0,7})-(?:\d+|hub)")
    if not wires.NETNS.is_dir():
        return []
    found = {m[1] for path in wires.NETNS.iterdir() if (m := pattern.fullmatch(path.name))}
    return sorted(found - set(homes.names()))


def install(machine: Machine, python: Path) -> Machine:
    """Have a machine's agent run by another installation of KAT from its next start on; it must not run now."""
    if machine.agent_pid() is not None:
        name = machine.node.name
        raise Conflict(f"the agent of {name} runs", hint=f"katcall lab stop --only agent {name}, then start it so")
    if not os.access(python, os.X_OK) or python.is_dir():
        raise InvalidInput(f"{python} is no program", hint="give the python of a virtual environment with kat in it")
    own = python.absolute() == Path(sys.executable).absolute()
    lab = machine.home.load().installed(machine.node, None if own else str(python.absolute()))
    machine.home.save(lab)
    return Machine(machine.home, lab, lab.find(machine.node.name))


def switch_on(machine: Machine) -> None:
    """Start a machine again: where it was off, that is another boot."""
    if machine.state() == "off":
        lab = machine.home.load().booted(machine.node)
        machine.home.save(lab)
        machine = Machine(machine.home, lab, lab.find(machine.node.name))
    machine.start()


def wipe(machine: Machine) -> None:
    """Lose a machine with its disk, and plug in an empty one in its place."""
    machine.power_off()
    _clear(machine)  # what the host has of it beyond the disk, which a machine of its own would have taken with it
    machine.power_off()
    machine.home.disk(machine.node).unlink(missing_ok=True)
    remove_tree(machine.home.data(machine.node))
    machine.plug_in()
