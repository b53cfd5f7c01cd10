"""Processes killed without warning: KAT goes on, and containers do not notice unless they were the ones."""

from __future__ import annotations

import os
import random
import signal
import time
from pathlib import Path

import pytest

from . import host
from .client import Hammer, fetch
from .conftest import Place
from .host import wait_for
from .images import WEB_NEXT

AGAIN_SECONDS = 3.0
KNOWN_SECONDS = 1.0
"""How long after an end new connections may still go to a dead instance; on an idle machine it is 0.02 s."""


def test_a_killed_container_is_ready_again_within_three_seconds(place: Place):
    place.web()
    place.rolled_out()
    (before,) = place.node.ready_instances(place.name, "web")
    spent = []
    for count in (1, 2):
        pid = place.instances("web")[0]["status"]["pid"]
        began = time.monotonic()
        os.kill(pid, signal.SIGKILL)

        def again(old: int = pid) -> bool:
            (item,) = place.instances("web")
            return item["ready"] and item["status"].get("pid") != old

        wait_for(again, "it is ready again", 20, every=0.02)
        spent.append(time.monotonic() - began)
        (after,) = place.instances("web")
        assert after["status"]["restarts"] == count
        assert after["name"] == before["name"]
        assert after["status"]["address"] == before["status"]["address"]
    # The first restart is at once; the second waits the first second of the back-off.
    assert spent[0] < AGAIN_SECONDS, spent
    assert fetch(place.node.space, place.node.virtual_ip(place.name, "web"), 80) == (200, "one\n")
    wait_for(lambda: place.node.events(place.name, "Restarted"), "the restart is an event", 5)
    exited = place.node.events(place.name, "Exited")
    assert exited, "its end is no event"
    assert all("signal 9" in event["message"] for event in exited)


def test_the_others_take_over_while_one_is_dead(place: Place):
    place.web(replicas=3)
    place.rolled_out()
    victim = place.instances("web")[0]["status"]["pid"]
    with Hammer(place.node.space, place.node.virtual_ip(place.name, "web"), 80) as hammer:
        time.sleep(0.2)
        killed_at = time.time()
        os.kill(victim, signal.SIGKILL)
        wait_for(lambda: place.instances("web")[0]["status"].get("pid") != victim, "it is noticed")
        place.rolled_out()
    # Requests under way in it are lost, and those sent before anybody could know; no more than that.
    late = [(round(sent - killed_at, 3), text) for sent, text in hammer.failures if sent > killed_at + KNOWN_SECONDS]
    assert not late, late


def test_a_killed_store_comes_back_and_no_container_is_touched(place: Place):
    place.web(replicas=2)
    place.rolled_out()
    before = place.node.pids(place.name)
    assert len(before) == 2
    address = place.node.virtual_ip(place.name, "web")
    with Hammer(place.node.space, address, 80) as hammer:
        for _ in range(2):
            etcd = place.node.process("/etcd", "--data-dir")
            os.kill(etcd, signal.SIGKILL)
            wait_for(lambda old=etcd: place.node.process("/etcd", "--data-dir") != old, "etcd is started again")
            wait_for(lambda: place.node.api.ask("GET", "/readyz").status == 200, "the API is ready again")
        place.post("web", "scale", {"replicas": 3})
        place.rolled_out()
    assert place.node.agent is not None
    assert place.node.agent.poll() is None, "the agent went down with its store"
    assert before.items() <= place.node.pids(place.name).items()
    assert not hammer.failures, hammer.failures[:5]


def test_a_killed_runtime_service_comes_back_and_no_container_is_touched(place: Place):
    place.web(replicas=2)
    place.rolled_out()
    before = place.node.pids(place.name)
    service = place.node.process("podman", "system service")
    os.kill(service, signal.SIGKILL)
    wait_for(lambda: place.node.process("podman", "system service") != service, "the service is started again")
    place.post("web", "scale", {"replicas": 3})
    place.rolled_out()
    assert before.items() <= place.node.pids(place.name).items()
    # An end is still seen.
    victim, (pid, _) = next(iter(before.items()))
    os.kill(pid, signal.SIGKILL)
    wait_for(lambda: place.node.pids(place.name).get(victim, (pid, 0))[0] != pid, "it runs again", 20)


def test_a_killed_tunnel_comes_back(place: Place):
    if not any("wireguard-go" in line for line in place.node.processes().values()):
        pytest.skip("the kernel does it here")
    place.web()
    place.rolled_out()
    tunnel = place.node.process("wireguard-go")
    before = place.node.pids(place.name)
    os.kill(tunnel, signal.SIGKILL)
    wait_for(lambda: place.node.process("wireguard-go") != tunnel, "the tunnel is started again")
    assert fetch(place.node.space, place.node.virtual_ip(place.name, "web"), 80) == (200, "one\n")
    assert place.node.pids(place.name) == before


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_an_agent_killed_at_any_moment_of_an_apply_converges_and_restarts_nothing(place: Place):
    """Six moments of a scale-up and an update, by a seed that is printed on failure."""
    seed = int(os.environ.get("KAT_TEST_SEED", random.SystemRandom().randrange(10**6)))
    chance = random.Random(seed)
    place.service("still", replicas=2)
    place.web(replicas=1)
    place.rolled_out("still")
    place.rolled_out()
    still = place.node.pids(place.name, "still")
    address = place.node.virtual_ip(place.name, "web")
    for turn in range(6):
        image = {"image": WEB_NEXT} if turn in (3, 5) else {}
        if turn < 3:
            place.web(replicas=2 + turn)
        else:
            place.web(replicas=4, **image)
        time.sleep(chance.uniform(0.0, 0.7))
        place.node.stop_agent(signal.SIGKILL)
        running = place.node_pids_from_kernel()
        place.node.start_agent()
        place.node.wait_ready()
        place.rolled_out()
        known = place.node.pids(place.name)
        survivors = dict(known.values())
        for pid, born in running.items():
            if host.alive(pid) and host.start_time(pid) == born:
                assert survivors.get(pid) == born, (
                    f"seed {seed}, turn {turn}: a running container is not known any more"
                )
        assert place.node.pids(place.name, "still") == still, f"seed {seed}, turn {turn}: a container was restarted"
        if turn < 3:
            kept = [pid for pid in running if pid in survivors]
            assert sorted(kept) == sorted(running), f"seed {seed}, turn {turn}: a running container was ended"
            assert not any(i["status"].get("restarts") for i in place.instances()), f"seed {seed}, turn {turn}"
        status, text = fetch(place.node.space, address, 80)
        assert (status, text) == (200, "two\n" if image else "one\n"), f"seed {seed}, turn {turn}"
    assert len(place.instances("web")) == 4


def test_an_agent_that_is_stopped_leaves_containers_and_their_services_running(place: Place):
    place.web(replicas=2)
    place.rolled_out()
    before, address = place.node.pids(place.name), place.node.virtual_ip(place.name, "web")
    with Hammer(place.node.space, address, 80) as hammer:
        assert place.node.stop_agent() == 0
        assert all(host.alive(pid) for pid, _ in before.values())
        answered = hammer.answered
        wait_for(lambda: hammer.answered > answered + 5, "requests are answered without an agent")
        # One ends while nobody looks: that is found out later.
        victim = next(iter(before))
        place.node.start_agent()
        place.node.wait_ready()
        place.rolled_out()
    assert not hammer.failures, hammer.failures[:5]
    assert place.node.pids(place.name) == before
    assert victim in before
    assert not any(item["status"].get("restarts") for item in place.instances())


def test_a_container_that_ends_while_the_agent_is_away_is_started_again(place: Place):
    place.web(replicas=2)
    place.rolled_out()
    before = place.node.pids(place.name)
    victim, (pid, _) = next(iter(before.items()))
    place.node.stop_agent(signal.SIGKILL)
    os.kill(pid, signal.SIGKILL)
    place.node.start_agent()
    place.node.wait_ready()
    wait_for(lambda: place.node.pids(place.name).get(victim, before[victim]) != before[victim], "it runs again")
    place.rolled_out()
    after = place.node.pids(place.name)
    assert after.keys() == before.keys()
    assert {k: v for k, v in after.items() if k != victim} == {k: v for k, v in before.items() if k != victim}
    restarts = {i["name"]: i["status"].get("restarts", 0) for i in place.instances()}
    assert restarts[victim] == 1


@pytest.mark.slow
def test_everything_comes_back_after_the_machine_lost_all_processes(place: Place):
    place.web(replicas=2)
    place.service("plain", replicas=1)
    place.rolled_out()
    place.rolled_out("plain")
    names = {item["name"] for item in place.instances()}
    assert place.node.agent is not None
    place.node.agent.kill()
    place.node.agent.wait(5)
    host.end(place.node.processes())
    assert not place.node.processes()
    place.node.start_agent()
    place.node.wait_ready()
    wait_for(lambda: len(place.node.pids(place.name)) == 3, "all containers run again")
    place.rolled_out()
    place.rolled_out("plain")
    assert {item["name"] for item in place.instances()} == names
    assert fetch(place.node.space, place.node.virtual_ip(place.name, "web"), 80) == (200, "one\n")
    assert Path("/proc", str(place.instances("plain")[0]["status"]["pid"])).exists()
