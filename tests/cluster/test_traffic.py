"""Changes under way while clients send requests: none may fail."""

from __future__ import annotations

import json
import threading
import time

import pytest

from .client import Hammer, fetch
from .conftest import Place
from .host import wait_for
from .images import WEB_NEXT, WEB_SICK
from .quadlets import web

# Debian's static busybox crashes on wget -T.
_ASK = """
trap 'exit 0' TERM
while :; do
  if timeout 10 wget -q -O /tmp/page "http://$TARGET/"; then echo "ok $(cat /tmp/page)"; else echo FAILED; fi
  sleep 0.02
done
"""


def ask_from_a_container(place: Place, target: str) -> str:
    """Run an instance that asks for a page all the time; gives its name once it got answers."""
    command = {"command": ["/bin/sh", "-c", _ASK], "env": [{"name": "TARGET", "value": target}]}
    place.service("client", container=command)
    place.rolled_out("client")
    (client,) = place.instances("client")
    wait_for(lambda: "ok one" in log_of(place, client["name"]), "the client in a container gets answers")
    return str(client["name"])


def log_of(place: Place, instance: str) -> list[str]:
    answer = place.node.api.ask("GET", f"/v1alpha1/namespaces/{place.name}/instances/{instance}/logs")
    assert answer.status == 200, answer.data
    return [json.loads(line)["text"] for line in answer.data.splitlines() if '"text"' in line]


@pytest.mark.slow
def test_no_request_fails_while_scaling_to_ten_and_back_to_one(place: Place):
    place.web(replicas=2)
    place.rolled_out()
    client = ask_from_a_container(place, f"web.{place.name}.kat.cluster.local")
    with Hammer(place.node.space, place.node.virtual_ip(place.name, "web"), 80, "/cgi-bin/who") as hammer:
        place.post("web", "scale", {"replicas": 10})
        place.rolled_out()
        wait_for(lambda: len({text.split()[0] for text in hammer.texts}) >= 8, "most of ten instances get requests", 15)
        place.post("web", "scale", {"replicas": 1})
        place.rolled_out()
        time.sleep(0.5)
    assert not hammer.failures, (hammer.answered, hammer.failures[:5])
    assert hammer.answered > 50
    lines = log_of(place, client)
    assert "FAILED" not in lines, (lines.count("FAILED"), len(lines))
    assert lines.count("ok one") > 20


@pytest.mark.slow
def test_no_request_fails_during_a_rolling_update(place: Place):
    place.web(replicas=3)
    place.rolled_out()
    with Hammer(place.node.space, place.node.virtual_ip(place.name, "web"), 80) as hammer:
        place.web(replicas=3, image=WEB_NEXT)
        item = place.rolled_out()
    assert item["record"]["revision"] == 2
    assert not hammer.failures, (hammer.answered, hammer.failures[:5])
    assert hammer.texts == {"one\n", "two\n"}


class ReadyWatch:
    """Notes the least number of ready instances that the API's watch shows."""

    def __init__(self, place: Place, name: str) -> None:
        self.least = 1000
        self._place, self._name = place, name
        self._api = place.node.caller()
        self._ready: set[str] = set()
        self._synced = False
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._follow, name="ready watch", daemon=True)
        self._thread.start()
        wait_for(lambda: self._synced, "the watch has begun")

    def _follow(self) -> None:
        with self._api.lines(f"/namespaces/{self._place.name}/instances", timeout=40, watch="true") as lines:
            for line in lines:
                found = line.get("object") or {}
                if found.get("workload") == self._name:
                    self._note(line["type"], found)
                self._synced = self._synced or line["type"] == "BOOKMARK"
                if self._synced:
                    self.least = min(self.least, len(self._ready))
                if self._ended.is_set():
                    return

    def _note(self, kind: str, found: dict) -> None:
        if kind != "DELETED" and found["ready"]:
            self._ready.add(found["name"])
        else:
            self._ready.discard(found["name"])

    def end(self) -> int:
        """Stop, and give the least number seen."""
        self._ended.set()
        return self.least


@pytest.mark.slow
def test_an_update_that_never_gets_healthy_stops_and_says_why(place: Place):
    place.web(replicas=3)
    place.rolled_out()
    before = place.node.pids(place.name, "web")
    watch = ReadyWatch(place, "web")
    strategy = {"type": "Rolling", "rolling": {"maxSurge": 1, "maxUnavailable": 0, "progressDeadlineSeconds": 4}}
    with Hammer(place.node.space, place.node.virtual_ip(place.name, "web"), 80) as hammer:
        place.web(replicas=3, image=WEB_SICK, updateStrategy=strategy)
        paused = wait_for(
            lambda: (r := place.node.workload(place.name, "web").get("rollout", {})).get("state") == "Paused" and r,
            "the rollout is paused",
            40,
        )
    assert watch.end() >= 3
    assert hammer.texts == {"one\n"}, "an instance that is not ready got a request"
    assert not hammer.failures, hammer.failures[:5]
    assert "404" in paused["message"], paused
    wait_for(lambda: place.node.events(place.name, "RolloutPaused"), "the event is there", 5)
    after = place.node.pids(place.name, "web")
    assert before.items() <= after.items(), "an old instance was replaced or restarted"
    # the way out: the old content again
    place.web(replicas=3)
    place.rolled_out()
    assert before.items() <= place.node.pids(place.name, "web").items()


@pytest.mark.slow
def test_an_update_that_never_gets_healthy_rolls_back_if_asked_to(place: Place):
    place.web(replicas=2)
    place.rolled_out()
    watch = ReadyWatch(place, "web")
    rolling = {"maxUnavailable": 1, "progressDeadlineSeconds": 3, "onFailure": "Rollback"}
    place.web(replicas=2, image=WEB_SICK, updateStrategy={"type": "Rolling", "rolling": rolling})
    wait_for(lambda: place.node.events(place.name, "RolledBack"), "it was rolled back", 40)
    item = place.rolled_out()
    assert watch.end() >= 1
    assert item["record"]["revision"] == 3
    assert item["revision"]["document"]["spec"]["source"]["image"].endswith("web:1")
    (event,) = place.node.events(place.name, "RolledBack")
    assert event["type"] == "Warning"


def test_a_virtual_ip_without_instances_refuses_at_once(place: Place):
    place.node.apply(web("web", place.name, replicas=0))
    wait_for(lambda: place.node.workload(place.name, "web").get("virtualIp"), "there is a virtual IP")
    address = place.node.virtual_ip(place.name, "web")

    def refused() -> bool:
        began = time.monotonic()
        try:
            fetch(place.node.space, address, 80)
        except ConnectionRefusedError:
            return time.monotonic() - began < 2
        return False

    wait_for(refused, "a virtual IP without instances refuses", 10)
