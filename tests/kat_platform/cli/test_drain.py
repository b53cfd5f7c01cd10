"""katcall node drain, remove, label and taint: progress, reasons, exit codes."""

from __future__ import annotations

import threading
import time

import pytest

from kat_platform.cli.drain import verdict
from kat_platform.cli.node import changed_taints
from kat_platform.errors import Conflict, NotFound, UsageError
from kat_platform.model.instance import Desired, InstanceRecord
from kat_platform.model.node import NodeReport, NodeRole
from kat_platform.state import keys


@pytest.fixture
def node(cluster):
    cluster.run(cluster.plane.add_node("w1", NodeRole.WORKER, "10.100.2.0/23"))
    cluster.run(cluster.plane.settled())
    return "w1"


def put(cluster, id_="web-aaaaa", **more):
    record = InstanceRecord(id=id_, namespace="default", workload="web", revision=1, node="w1", **more)
    cluster.put(keys.instance("default", id_), record)
    return record


def test_a_drain_shows_its_progress_until_nothing_is_left(cluster, katcall, node):
    record = put(cluster)

    def leader():
        time.sleep(0.7)
        cluster.put(record_key, record.model_copy(update={"desired": Desired.STOP, "stop_reason": "node w1"}))
        time.sleep(0.7)
        cluster.run(cluster.plane.store.delete(record_key))

    record_key = keys.instance("default", record.id)
    thread = threading.Thread(target=leader, name="kt-leader")
    thread.start()
    result = katcall("node", "drain", node)
    thread.join()
    assert result.out == "node/w1 is drained\n"
    steps = [line.split(None, 2)[2] for line in result.err.splitlines()]
    assert steps[0].startswith("Moving: waits its turn")
    assert [step.split(":")[0].split()[0] for step in steps] == ["Moving", "Stopping", "gone"]
    assert steps[-1].endswith("[0 left]")
    assert "draining" in katcall("node", "ls").out
    katcall("node", "uncordon", node)
    assert "draining" not in katcall("node", "ls").out


def test_a_drain_that_takes_too_long_says_what_it_waits_for_and_that_it_goes_on(cluster, katcall, node):
    put(cluster)
    waiting = InstanceRecord(
        id="web-bbbbb", namespace="default", workload="web", revision=1, unplaceable="no node has 8 GiB left"
    )
    cluster.put(keys.instance("default", "web-bbbbb"), waiting)
    error = katcall("node", "drain", node, "--timeout", "1s", code=6).err
    assert "1 instance left" in error
    assert "default/web-aaaaa: Blocked: its replacement web-bbbbb finds no node: no node has 8 GiB left" in error
    assert "katcall node uncordon w1" in error
    assert katcall("node", "drain", node, "--no-wait").out.startswith("node/w1 is being drained: 1 instance left")


def test_daemons_are_waited_for_only_when_asked(cluster, katcall, node):
    put(cluster, "log-aaaaa", only_node="w1")
    assert "Staying" in katcall("node", "drain", node).err
    assert "it is a daemon's" in katcall("node", "drain", node, "--include-daemons", "--timeout", "0", code=6).err


def progress(**changes):
    item = {"namespace": "default", "instance": "db-1", "workload": "db", "state": "Pinned", "reason": "its volume"}
    return {"node": "w1", "draining": True, "left": 1, "pinned": 1, "instances": [item], **changes}


def test_what_cannot_move_ends_the_wait_at_once_unless_that_is_good_enough():
    with pytest.raises(Conflict, match="default/db-1: Pinned: its volume"):
        verdict(progress(), ignore_pinned=False)
    assert verdict(progress(), ignore_pinned=True)
    assert not verdict(progress(left=2), ignore_pinned=True), "others may still move"
    with pytest.raises(Conflict, match="uncordon"):
        verdict(progress(draining=False), ignore_pinned=True)


def test_a_node_is_removed(cluster, katcall, node):
    put(cluster)
    assert "it has 1 instance" in katcall("node", "remove", node, code=4).err
    assert katcall("node", "remove", node, "--force").out == "node/w1 removed\n"
    katcall("node", "describe", node, code=3)
    katcall("node", "remove", node, code=3)


def test_labels_and_taints(cluster, katcall, node):
    def record():
        return katcall("get", "node", node, "-o", "json").json["record"]

    katcall("node", "label", node, "disk=ssd", "zone=a")
    katcall("node", "label", node, "zone-")
    assert record()["labels"] == {"disk": "ssd"}
    katcall("node", "label", node, "disk", code=2)
    katcall("node", "taint", node, "gpu=yes:NoSchedule", "broken:NoExecute")
    katcall("node", "taint", node, "gpu-")
    assert record()["taints"] == [{"key": "broken", "value": "", "effect": "NoExecute"}]
    katcall("node", "taint", node, "nothing-", code=3)


def test_a_full_disk_is_seen_beside_the_operators_taints(cluster, katcall, node):
    katcall("node", "taint", node, "gpu=yes:NoSchedule", "broken:NoExecute")
    found = katcall("get", "node", node, "-o", "json").json
    for full in (True, False):
        report = {**(found["report"] or {}), "conditions": [{"type": "DiskPressure", "status": full}]}
        cluster.put(keys.node_report(node), NodeReport.model_validate(report))
        wait = time.monotonic() + 5
        while ("DiskPressure" in katcall("node", "ls").out) != full:
            assert time.monotonic() < wait
        told = katcall("node", "describe", node).out
        assert "gpu=yes:NoSchedule, broken:NoExecute" in told
        assert ("kat.dws.rip/disk-pressure:NoSchedule" in told) == full
    katcall("node", "taint", node, "kat.dws.rip/disk-pressure-", code=3)


@pytest.mark.parametrize("text", ["gpu", "gpu=1", ":NoExecute", "gpu:Explode", "=1:NoExecute", "-"])
def test_a_taint_that_cannot_be_read_is_refused(text):
    with pytest.raises(UsageError, match="is no taint"):
        changed_taints([], (text,))


def test_taints_are_replaced_by_key_and_effect():
    here = [{"key": "a", "value": "1", "effect": "NoSchedule"}, {"key": "a", "value": "1", "effect": "NoExecute"}]
    assert changed_taints(here, ("a=2:NoExecute",))[1] == {"key": "a", "value": "2", "effect": "NoExecute"}
    assert changed_taints(here, ("a:NoExecute-",)) == here[:1]
    assert changed_taints(here, ("a-",)) == []
    with pytest.raises(NotFound):
        changed_taints(here, ("b-",))
