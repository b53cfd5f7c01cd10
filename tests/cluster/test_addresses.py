"""Machines with other addresses, for real: all of them after a power cut, one endpoint given; one while it runs."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from kat_platform.cli import context as contexts
from kat_platform.cli.client import Client
from kat_platform.errors import KatError

from .host import wait_for
from .test_control_plane import NODES, Trio, Writer
from .test_drain import Load
from .test_lab import RealLab, make_lab

__all__ = ["make_lab"]

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]
REFORM_SECONDS = 90.0
ROAM_SECONDS = 15.0
REACH_SECONDS = 15.0
"""For a handshake to come through between nodes that both have just learnt where the other one is."""
ALL = (*NODES, "n4")


@pytest.fixture(scope="module")
def lab(make_lab: Callable[[], RealLab]) -> Trio:
    """Three control-plane nodes and a worker, with a web server on each."""
    plain = make_lab()
    lab = Trio(plain.folder, plain.config, plain.environment)
    lab.name = plain.name
    lab.up(4)
    plain.tags = lab.tags
    lab.apply("web", replicas=8)
    wait_for(lambda: lab.settled(8), "eight instances are ready", 60)
    lab.spread_over(*ALL)
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


def give(lab: RealLab, node: str, where: str) -> str:
    """Tell a node an endpoint, as its root does."""
    data = str(lab.folder / lab.name / node / "data")
    command = (sys.executable, "-P", "-m", "kat_platform.cli.agent_main", "endpoint", where, "--data-path", data)
    return lab.lab("exec", node, "--", *command)


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
        assert after["n1"] in give(lab, node, after["n1"])
    wait_for(lambda: lab.leader() is not None, "there is a leader", REFORM_SECONDS)
    led = time.monotonic() - began
    print(f"a leader after {led:.1f} s")
    for node in NODES:
        wait_for(partial(serves, lab.through(node)), f"{node} serves", 60)
        print(f"{node} serves after {time.monotonic() - began:.1f} s")
        names = {item["name"] for item in lab.through(node).get("namespaces", consistent=True)["items"]}
        assert not writer.acknowledged - names, f"{node} lacks what was acknowledged"
    wait_for(lambda: lab.ready_nodes() == {*ALL}, "every node is ready", REFORM_SECONDS)
    wait_for(lambda: lab.settled(wanted), "every instance is ready", 60)
    print(f"every instance ready after {time.monotonic() - began:.1f} s")
    lab.spread_over(*ALL)  # some may have been made anew elsewhere: the power was off for long enough
    for node in ALL:
        heard = {lab.ask(node, f"http://{virtual}/cgi-bin/who").split()[0] for _ in range(8)}
        assert len(heard) > 2, "requests reach instances on other nodes"
        for other in ALL:
            target = next(i for i in lab.instances() if i["node"] == other)
            url = f"http://{target['status']['address']}:8080/cgi-bin/who"
            said = wait_for(partial(lab.ask, node, url), f"{node} reaches {other} directly", REACH_SECONDS)
            assert said.split()[0] == target["name"]
    print(f"each node reaches each other one after {time.monotonic() - began:.1f} s")
    data = [lab.folder / lab.name / node / "data/endpoint.json" for node in ALL]
    wait_for(lambda: not any(path.exists() for path in data), "what was given is forgotten when it is known", 70)
    for node in lab.client.get("nodes")["items"]:
        assert node["report"]["addresses"][0] == after[node["name"]]


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
        wait_for(lambda: lab.ask("n2", url), "the others reach it", 30)
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
    wait_for(lambda: lab.ready_nodes() == {*ALL}, "every node is ready", REFORM_SECONDS)
    wait_for(lambda: lab.settled(wanted), "every instance is ready", 60)
    print(f"every instance ready after {time.monotonic() - began:.1f} s")
    for node in lab.client.get("nodes")["items"]:
        assert node["report"]["addresses"] == [after[node["name"]]]
