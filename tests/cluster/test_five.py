"""Five control-plane nodes survive the loss of two, for whoever types katcall; without a majority nothing changes.

All of it through ``katcall``, each time a process of its own, as a user has it.
"""

from __future__ import annotations

import json
import sys
import time

import pytest

from kat_platform.errors import KatError

from . import host
from .host import wait_for
from .lab import MakeLab
from .test_lab import RealLab, make_lab

__all__ = ["make_lab"]

NODES = ("n1", "n2", "n3", "n4", "n5")
WRITE_SECONDS = 5.0
"""Bound of a whole katcall that writes just after the leader was lost, the first servers of its context being dead.
About 1 s is usual."""


def said(lab: RealLab, *words: str) -> tuple[int, str, float]:
    """Run katcall; gives its exit code, all that it says, and the seconds it took."""
    began = time.monotonic()
    program = (sys.executable, "-P", "-m", "kat_platform.cli.main", *words)
    code, text = host.outcome(*program, env=lab.environment)
    return code, text, time.monotonic() - began


def made(lab: RealLab) -> str:
    """Make a token within the bound; gives its id: the write was acknowledged."""
    code, text, took = said(lab, "token", "create", "--role", "worker", "-o", "json")
    assert code == 0, text
    assert took < WRITE_SECONDS, f"{took:.1f} s"
    return str(json.loads(text)["id"])


def whole(lab: RealLab, node: str) -> bool:
    """Tell whether a node serves, has caught up, and finds all nodes ready."""
    try:
        items = lab.through(node).get("nodes", consistent=True)["items"]
    except KatError as error:
        raise AssertionError(str(error)) from None
    return [item["name"] for item in items if item["ready"]] == list(NODES)


@pytest.mark.slow
@pytest.mark.soak
@pytest.mark.timeout(240)
def test_two_of_five_are_lost_then_a_third_and_all_come_back(make_lab: MakeLab) -> None:
    lab = make_lab(RealLab, nodeLossTimeoutSeconds=60)
    lab.up(5, "--control-plane", "5")
    lab.apply("web", replicas=5)
    wait_for(lambda: lab.settled(5), "five instances are ready", 40)
    written = [made(lab)]

    dead: list[str] = []
    for victim in (lab.led, lambda: "n1" if "n1" not in dead else lab.led()):
        dead.append(victim())
        lab.lab("kill", dead[-1])
        written += [made(lab), made(lab)]
    code, text, took = said(lab, "node", "ls")
    assert (code, "warning" in text) == (0, False), text
    assert took < WRITE_SECONDS

    left = [node for node in NODES if node not in dead]
    before = {node: lab.served(node) for node in left[1:]}
    assert any(before.values())
    dead.append(left[0])
    lab.lab("kill", left[0])
    code, text, took = said(lab, "token", "create", "--role", "worker")
    assert (code, "Traceback" in text) == (1, False), text
    assert "nothing was changed: node 'n" in text
    assert "reaches no majority" in text
    assert "are most of them on" in text
    assert took < 6 + WRITE_SECONDS, f"refused after {took:.1f} s; each of the two that are left gives up after 3 s"
    code, text, took = said(lab, "get", "instances")
    assert code == 0, text
    assert text.count("web-") >= 5
    assert "may be out of date" in text
    assert "reaches no majority" in text
    assert took < 6 + WRITE_SECONDS, f"answered after {took:.1f} s"
    virtual = lab.client.get("namespaces", "default", "workloads", "web")["virtualIp"]
    for node in before:
        wait_for(lambda node=node: lab.ask(node, f"http://{virtual}/cgi-bin/who"), "containers serve", 10)
    assert {node: lab.served(node) for node in left[1:]} == before

    for node in dead:
        lab.lab("start", node)
    for node in NODES:
        wait_for(lambda node=node: whole(lab, node), f"{node} serves, and every node is ready", 40)
        kept = {item["id"] for item in lab.through(node).get("join-tokens")["items"]}
        assert set(written) <= kept, f"{node} lacks what was acknowledged"
    assert {node: lab.served(node) for node in left[1:]} == before, "a container was started anew"

    for node in left[1:]:  # the other way round: the three that were away are a majority of five
        lab.lab("kill", node)
    written.append(made(lab))
    assert written[-1] in {item["id"] for item in lab.client.get("join-tokens")["items"]}
