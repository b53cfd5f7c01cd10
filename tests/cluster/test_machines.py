"""Machines that leave and machines that move, for real, on one lab, which is as it was after all but the last two.

A worker leaves by itself under load. Machines get other addresses: all after a power cut, one endpoint given; one while
it runs. In the end the worker leaves for good, then control-plane nodes; nothing is left behind.
"""

from __future__ import annotations

import json
import os
import re
import sys
import time
from functools import partial
from pathlib import Path

import pytest

from kat_platform.cli import context as contexts
from kat_platform.cli.client import Client
from kat_platform.cli.context import Context
from kat_platform.errors import KatError

from . import host
from .host import wait_for
from .lab import MakeLab, agent
from .test_control_plane import NODES, Trio, Writer
from .test_drain import Load, refused
from .test_lab import RealLab, make_lab

__all__ = ["make_lab"]

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]
REFORM_SECONDS = 90.0
ROAM_SECONDS = 15.0
REACH_SECONDS = 15.0
"""For a handshake to come through between nodes that both have just learnt where the other one is."""
ALL = (*NODES, "n4")


@pytest.fixture(scope="module")
def lab(make_lab: MakeLab) -> Trio:
    """Three control-plane nodes and a worker, with a web server on each."""
    lab = make_lab(Trio)
    lab.up_with_webs(*ALL)
    return lab


def addresses(lab: RealLab) -> dict[str, str]:
    """Give the nodes' addresses, as the lab tells."""
    lines = [line.split() for line in lab.katcall("lab", "ls").splitlines()[1:]]
    return {words[1]: words[3] for words in lines if words[0] == lab.name}


def reconnect(lab: RealLab) -> None:
    """Take the addresses from katcall's context anew."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KAT_CONFIG", lab.environment["KAT_CONFIG"])
        lab.client = Client(contexts.load(f"lab-{lab.name}"))


def serves(client: Client) -> bool:
    """Tell whether an API server answers with the newest state."""
    try:
        return bool(client.get("nodes", consistent=True)["items"])
    except KatError:
        return False


def told(lab: RealLab) -> dict[str, list[str]]:
    """Give the addresses that the nodes have told: what else is known of one may be from before it moved."""
    return {item["name"]: item["report"]["addresses"] for item in lab.client.get("nodes")["items"]}


def reaches_all(lab: RealLab, node: str) -> bool:
    """Tell whether a node reaches every instance directly."""
    targets = {i["name"]: f"http://{i['status']['address']}:8080" for i in lab.instances()}
    return lab.who(node, *targets.values()) == list(targets)


def left_on(lab: RealLab, node: str, tag: str) -> list[str]:
    """Name what is left of a node on its machine: files, processes, interfaces, rules, mounts, control groups."""
    space = f"kl-{lab.name}-{node[1:]}"
    inside = ("nsenter", f"--net=/run/netns/{space}", "--")
    folder = lab.folder / lab.name / node
    backups = folder / "data/backups"  # which are kept, as is said
    files = [path for path in (folder / "data").rglob("*") if not path.is_relative_to(backups)]
    found = [f"file {path}" for path in files]
    wanted = os.stat(f"/run/netns/{space}").st_ino
    found += [f"process {pid} {line}" for pid, line in host.processes_of(wanted, ()).items()]
    links = re.findall(r"^\d+: ([^:@]+)", host.run(*inside, "ip", "-o", "link"), re.MULTILINE)
    found += [f"interface {name}" for name in links if name not in ("lo", "eth0")]
    found += [
        f"rules {line}" for line in host.run(*inside, "nft", "list", "tables").splitlines() if "kat_lab" not in line
    ]
    found += [f"mount {point}" for point in host.mounts_below(folder, lab.runs / tag)]
    found += [f"control group {path}" for path in host.control_groups(f"kat-{tag}")]
    found += [f"socket folder {path}" for path in [lab.runs / tag] if path.exists()]
    return found


def certificate_of(lab: RealLab, node: str) -> Context:
    """Give a context that speaks as a node."""
    pki = lab.folder / lab.name / node / "data/pki"
    ca, certificate, key = ((pki / name).read_text() for name in ("ca.pem", "node.pem", "node.key"))
    return Context("node", lab.client.context.servers, ca, certificate, key)


def tag_of(lab: RealLab, node: str) -> str:
    """Give the tag of a node's agent."""
    return str(json.loads((lab.folder / lab.name / node / "data/node.json").read_text())["tag"])


def test_a_worker_leaves_under_load_without_a_failed_request(lab: Trio, tmp_path: Path) -> None:
    own, tag, wanted = certificate_of(lab, "n4"), tag_of(lab, "n4"), len(lab.instances())
    assert Client(own).get("nodes", "n4")["name"] == "n4"
    assert left_on(lab, "n4", tag)
    virtual = lab.client.get("namespaces", "default", "workloads", "web")["virtualIp"]
    with Load(lab, "n2", f"http://{virtual}/cgi-bin/who", tmp_path / "end") as load:
        said = agent(lab, "n4", "leave", "--yes")
    assert load.failures == []
    assert load.answers > 50
    assert "nothing else of KAT is left" in said
    assert {item["name"] for item in lab.client.get("nodes")["items"]} == {*NODES}
    wait_for(lambda: lab.settled(wanted), "everything is ready on the others", 30)
    assert left_on(lab, "n4", tag) == []
    wait_for(lambda: refused(own), "its certificate is refused", 5)
    joined = lab.client.post("join-tokens", body={"role": "worker"})["token"]
    server = lab.client.context.servers[0].removeprefix("https://")
    assert "joined" in agent(lab, "n4", "join", server, "--token", joined, "--name", "n4")
    lab.lab("start", "n4")
    wait_for(lambda: "n4" in lab.ready_nodes(), "the machine may join again", 30)
    lab.spread_over(*ALL)  # as it was


def test_all_machines_come_back_with_other_addresses_and_one_endpoint_is_enough(lab: Trio) -> None:
    wanted, virtual = len(lab.instances()), lab.client.get("namespaces", "default", "workloads", "web")["virtualIp"]
    before = addresses(lab)
    with Writer(lab) as writer:
        wait_for(lambda: len(writer.acknowledged) > 10, "writes are taken", 20)
        for node in ALL:
            lab.lab("kill", node)
    lab.lab("readdress")
    after = addresses(lab)
    assert not set(before.values()) & set(after.values())
    reconnect(lab)
    for node in ALL:
        lab.lab("start", node)
    began = time.monotonic()
    for node in ("n2", "n3", "n4"):
        assert after["n1"] in agent(lab, node, "endpoint", after["n1"])
    wait_for(lambda: lab.leader() is not None, "there is a leader", REFORM_SECONDS)
    led = time.monotonic() - began
    print(f"a leader after {led:.1f} s")
    for node in NODES:
        wait_for(partial(serves, lab.through(node)), f"{node} serves", 60)
        print(f"{node} serves after {time.monotonic() - began:.1f} s")
        names = {item["name"] for item in lab.through(node).get("namespaces", consistent=True)["items"]}
        assert not writer.acknowledged - names, f"{node} lacks what was acknowledged"
    moved = {node: [address] for node, address in after.items()}
    wait_for(lambda: told(lab) == moved, "every node tells its new address", REFORM_SECONDS)
    wait_for(lambda: lab.ready_nodes() == {*ALL}, "every node is ready", REFORM_SECONDS)
    wait_for(lambda: lab.settled(wanted), "every instance is ready", 60)
    print(f"every instance ready after {time.monotonic() - began:.1f} s")
    lab.spread_over(*ALL)  # some may have been made anew elsewhere: the power was off for long enough
    for node in ALL:
        assert len({*lab.who(node, *[f"http://{virtual}"] * 8)}) > 2, "requests reach instances on other nodes"
        wait_for(partial(reaches_all, lab, node), f"{node} reaches every instance directly", REACH_SECONDS)
    print(f"each node reaches each other one after {time.monotonic() - began:.1f} s")
    data = [lab.folder / lab.name / node / "data/endpoint.json" for node in ALL]
    wait_for(lambda: not any(path.exists() for path in data), "what was given is forgotten when it is known", 70)
    assert told(lab) == moved


def test_a_worker_gets_another_address_while_it_runs(lab: Trio, tmp_path: Path) -> None:
    found = [i for i in lab.instances() if i["node"] == "n4" and i["ready"]]
    url = f"http://{found[0]['status']['address']}:8080/cgi-bin/who"
    before, running = addresses(lab)["n4"], lab.served("n4")
    with Load(lab, "n2", url, tmp_path / "end") as load:
        time.sleep(1)
        lab.lab("readdress", "n4")
        moved = time.time()
        after = addresses(lab)["n4"]
        assert after != before
        wait_for(lambda: lab.client.get("nodes", "n4")["report"]["addresses"] == [after], "it is told", 30)
        told = time.time() - moved
        wait_for(lambda: lab.ask("n2", url)[0], "the others reach it", 30)
        time.sleep(2)
    late = [float(line.split()[0]) - moved for line in load.failures]
    print(f"told after {told:.1f} s; the last of {len(late)} failed requests after {max(late, default=0):.1f} s")
    assert all(each < ROAM_SECONDS for each in late), load.failures
    assert lab.served("n4") == running
    assert "n4" in lab.ready_nodes()
    events = [e["event"] for e in lab.client.get("events")["items"]]
    assert not [e for e in events if e["reason"] == "NodeLost" and e["objectName"] == "n4" and e["lastAt"] > moved - 1]


def test_all_but_one_come_back_with_other_addresses_and_nothing_has_to_be_given(lab: Trio) -> None:
    before, wanted = addresses(lab), len(lab.instances())
    for node in ("n2", "n3", "n4"):
        lab.lab("kill", node)
        lab.lab("readdress", node)
    after = addresses(lab)
    assert [node for node in ALL if before[node] == after[node]] == ["n1"]
    reconnect(lab)
    for node in ("n2", "n3", "n4"):
        lab.lab("start", node)
    began = time.monotonic()
    for node in NODES:
        wait_for(partial(serves, lab.through(node)), f"{node} serves", REFORM_SECONDS)
    moved = {node: [address] for node, address in after.items()}
    wait_for(lambda: told(lab) == moved, "every node tells its new address", REFORM_SECONDS)
    wait_for(lambda: lab.ready_nodes() == {*ALL}, "every node is ready", REFORM_SECONDS)
    wait_for(lambda: lab.settled(wanted), "every instance is ready", 60)
    print(f"every instance ready after {time.monotonic() - began:.1f} s")
    assert told(lab) == moved


def test_a_leave_that_is_killed_between_removal_and_reset_is_finished_by_the_next(lab: Trio) -> None:
    tag = tag_of(lab, "n4")
    crash = (
        "import os, sys\n"
        "from kat_platform.agent import leave\n"
        "leave.take_over = lambda *_: os.kill(os.getpid(), 9)\n"
        "from kat_platform.cli.agent_main import cli\n"
        "cli(sys.argv[1:])\n"
    )
    data = str(lab.folder / lab.name / "n4/data")
    words = (sys.executable, "-P", "-c", crash, "leave", "--yes", "--data-path", data)
    lab.lab("exec", "n4", "--", *words, timeout=150, check=False)
    assert "n4" not in {item["name"] for item in lab.client.get("nodes")["items"]}
    assert left_on(lab, "n4", tag), "it was killed before it cleared anything"
    assert "nothing else of KAT is left" in agent(lab, "n4", "leave")
    assert left_on(lab, "n4", tag) == []


def test_a_control_plane_node_of_three_leaves_and_the_other_two_go_on(lab: Trio) -> None:
    leaving = lab.led()
    others = tuple(node for node in NODES if node != leaving)
    tag, wanted = tag_of(lab, leaving), len(lab.instances())
    with Writer(lab) as writer:
        said = agent(lab, leaving, "leave", "--yes")
        assert "nothing else of KAT is left" in said
        taken = len(writer.acknowledged)
        wait_for(lambda: len(writer.acknowledged) > taken + 5, "writes are taken by those that stay", 30)
    wait_for(lambda: lab.leader(*others) in others, "one of them leads", 15)
    for node in others:
        names = {item["name"] for item in lab.through(node).get("namespaces", consistent=True)["items"]}
        assert not writer.acknowledged - names
    client = lab.through(*others)
    assert {item["name"] for item in client.get("nodes", consistent=True)["items"]} == {*others}

    def settled() -> bool:
        found = client.get("namespaces", "default", "instances")["items"]
        return len(found) == wanted and all(item["ready"] for item in found)

    wait_for(settled, "everything is ready on the others", 30)
    assert left_on(lab, leaving, tag) == []
    # Of two, one more may go. The last stays.
    agent(lab, others[0], "leave", "--yes")
    refusal = agent(lab, others[1], "leave", "--yes", check=False)
    assert "nothing else" not in refusal
    last = lab.through(others[1])
    wait_for(lambda: [n["name"] for n in last.get("nodes", consistent=True)["items"]] == [others[1]], "one is left", 20)
    assert last.get("nodes", others[1])["ready"]
