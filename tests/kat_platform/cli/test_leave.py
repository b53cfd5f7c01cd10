"""kat-agent leave: what it refuses, what it asks of whom, and that it goes on after a crash between any two steps."""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import nullcontext

import pytest
from click.testing import CliRunner

from kat_platform.agent import leave as steps
from kat_platform.agent import teardown
from kat_platform.agent.leave import Stage
from kat_platform.agent.local import AgentLock, LocalNode, Places, load_node, save_node
from kat_platform.cli import context as contexts
from kat_platform.cli.agent_main import cli
from kat_platform.errors import Conflict, TimedOut, Unauthenticated, Unavailable
from kat_platform.model.cluster import ClusterConfiguration
from kat_platform.model.identity import NodeName
from kat_platform.model.instance import InstanceRecord
from kat_platform.model.meta import Metadata
from kat_platform.model.node import NodeRole
from kat_platform.pki.certificates import load_certificate
from kat_platform.state import keys
from kat_platform.testing.control_plane import CLUSTER_ID

_AGENT = """
import signal, sys
from pathlib import Path
from kat_platform.agent.local import AgentLock, Places
AgentLock(Places(Path(sys.argv[1]))).acquire()
signal.signal(signal.SIGTERM, lambda *_: sys.exit())
print("ready", flush=True)
while True:
    signal.pause()
"""


@pytest.fixture
def places(cluster, tmp_path, monkeypatch):
    """A worker of the cluster, as it lies on its disk."""
    monkeypatch.setattr(teardown, "_drivers", lambda *_: [])
    # The API of these tests is on loopback, where a node's own would be.
    monkeypatch.setattr(steps, "other_servers", lambda node: node.api_endpoints)
    cluster.run(cluster.plane.add_node("w1", NodeRole.WORKER, "10.100.2.0/23"))
    places = Places(tmp_path / "data")
    certificate, key = cluster.plane.issue_node(NodeName(CLUSTER_ID, "w1", NodeRole.WORKER))
    serial = load_certificate(certificate.read_bytes()).serial_number
    cluster.put(keys.certificate("w1", serial), b'{"expiresAt": 9e9}')
    node = LocalNode(
        cluster_id=CLUSTER_ID,
        node_name="w1",
        role=NodeRole.WORKER,
        tag="kttst",
        configuration=ClusterConfiguration(metadata=Metadata(name="cluster")),
        api_endpoints=(cluster.plane.url,),
    )
    save_node(places, node)
    places.pki.mkdir(mode=0o700)
    (places.pki / "ca.pem").write_bytes(cluster.plane.authority.pem())
    places.certificate.write_bytes(certificate.read_bytes())
    places.key.write_bytes(key.read_bytes())
    places.key.chmod(0o600)
    return places


def start_agent(places):
    """Start a process that holds the lock as the agent does, and ends when it is told."""
    child = subprocess.Popen((sys.executable, "-c", _AGENT, str(places.data)), stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    assert child.stdout.readline() == "ready\n"
    return child


@pytest.fixture
def agent(places):
    """The node's agent."""
    with start_agent(places) as child:
        yield child
        child.kill()


def leave(places, *words):
    return CliRunner().invoke(cli, ["leave", "--data-path", str(places.data), *words])


def members(cluster):
    return set(cluster.plane.cache.state.nodes)


def test_a_node_leaves_and_nothing_stays(cluster, places, agent):
    found = leave(places, "--yes")
    assert found.exit_code == 0, (found.output, found.exception)
    assert "w1" not in members(cluster)
    assert agent.wait(5) == 0
    assert not places.data.exists()
    revoked = cluster.run(cluster.plane.store.list(keys.REVOKED)).entries
    assert len(revoked) == 1
    cluster.run(cluster.plane.server.api.audit.flush())
    records = [e.value for e in cluster.run(cluster.plane.store.list(keys.AUDIT)).entries]
    assert sum(b"nodes/leave" in record and b"w1" in record for record in records) == 2, "that it leaves is audited"


def test_it_asks_first_and_does_nothing_without_an_answer(places, agent):
    assert "--yes" in str(leave(places).exception)
    assert places.data.exists()


def test_without_an_agent_only_by_force(cluster, places):
    cluster.put(
        keys.instance("default", "web-a"),
        InstanceRecord(id="web-a", namespace="default", workload="web", revision=1, node="w1"),
    )
    error = leave(places, "--yes").exception
    assert isinstance(error, Conflict)
    assert "--force" in str(error)
    assert leave(places, "--yes", "--force").exit_code == 0
    assert "w1" not in members(cluster)


def test_volumes_data_keep_a_node_and_are_named_before_anything_moves(cluster, places, agent):
    cluster.put(keys.pin("default", "db", "data"), b'{"node": "w1"}')
    error = leave(places, "--yes").exception
    assert isinstance(error, Conflict)
    assert "default/db/data" in str(error)
    assert not cluster.plane.cache.state.nodes["w1"].cordoned
    assert steps.stage(places) is Stage.STAYING
    assert leave(places, "--yes", "--force").exit_code == 0


def test_a_drain_that_takes_too_long_says_how_to_go_on_and_how_to_go_back(cluster, places, agent):
    cluster.put(
        keys.instance("default", "web-a"),
        InstanceRecord(id="web-a", namespace="default", workload="web", revision=1, node="w1"),
    )
    error = leave(places, "--yes", "--timeout", "1s").exception
    assert isinstance(error, TimedOut)
    assert "kat-agent leave" in str(error)
    assert "katcall node uncordon w1" in str(error)
    assert "waits its turn" in str(error)
    assert agent.poll() is None, "the agent goes on"
    cluster.run(cluster.plane.store.delete(keys.instance("default", "web-a")))
    assert leave(places, "--yes").exit_code == 0


def test_an_interruption_says_how_to_go_on(places, agent, monkeypatch):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("kat_platform.cli.drain.wait_drained", interrupt)
    found = leave(places, "--yes")
    assert "uncordon w1" in found.output
    assert found.exit_code == 1


@pytest.mark.parametrize("noted", [Stage.REMOVING, Stage.REMOVED])
def test_it_goes_on_after_a_crash_behind_the_removal(cluster, places, agent, noted):
    departure = steps.Departure(places, load_node(places))
    departure.remove(force=False)
    steps._note(places, noted)
    with pytest.raises(Conflict) if noted is Stage.REMOVED else nullcontext():
        steps.refuse_left(places)
    found = leave(places)  # asks nothing any more
    assert found.exit_code == 0, (found.output, found.exception)
    assert not places.data.exists()


def test_a_node_that_somebody_else_removed_is_told_so(cluster, places, agent):
    departure = steps.Departure(places, load_node(places))
    departure.remove(force=False)
    places.leaving.unlink()
    error = leave(places, "--yes").exception
    assert isinstance(error, Unauthenticated)
    assert "kat-agent reset" in str(error)
    assert places.data.exists()


def test_a_lost_answer_is_asked_for_again(cluster, places, agent, monkeypatch):
    departure = steps.Departure(places, load_node(places))
    ask, lost = departure._ask, []

    def lose(body):
        found = ask(body)
        if not lost:
            lost.append(found)
            raise Unavailable("the answer was lost")
        return found

    monkeypatch.setattr(departure, "_ask", lose)
    departure.remove(force=False)
    assert lost
    assert steps.stage(places) is Stage.REMOVED


def test_out_of_reach_it_names_the_way_out(cluster, places, agent, monkeypatch):
    save_node(places, load_node(places).model_copy(update={"api_endpoints": ("https://127.0.0.1:9",)}))
    error = leave(places, "--yes").exception
    assert isinstance(error, Unavailable)
    assert "kat-agent reset" in str(error)
    assert "katcall node remove w1 --force" in str(error)


def test_an_agent_that_is_started_again_is_ended_again(places, agent, monkeypatch):
    ended: list[int] = []
    original = steps._end

    def end(pid):
        """End it, as a supervisor sees that starts another one at once."""
        original(pid)
        if not ended:
            agent.wait(5)
            again.append(start_agent(places))
        ended.append(pid)

    again: list[subprocess.Popen[str]] = []
    monkeypatch.setattr(steps, "_end", end)
    lock = steps.take_over(places, lambda _: None)
    lock.release()
    with again[0] as second:
        assert second.wait(5) == 0
    assert ended == [agent.pid, second.pid]


def test_nobody_is_ended_who_only_had_the_lock_before(places):
    lock = AgentLock(places)
    assert lock.holder() is None
    lock.acquire()
    assert lock.holder() == os.getpid()
    lock.release()
    assert (places.data / "agent.lock").read_text() == str(os.getpid())
    assert lock.holder() is None


def test_katcalls_context_talks_to_those_that_stay(cluster, places, agent):
    contexts.add_context(CLUSTER_ID, server="https://127.0.0.1:1", ca="ca", certificate="c", key="k")
    assert leave(places, "--yes").exit_code == 0
    assert contexts.load(CLUSTER_ID).servers == (cluster.plane.url,)


def test_the_files_that_say_what_is_left_to_do_go_last(places, monkeypatch):
    from kat_platform.agent import local

    steps._note(places, Stage.REMOVED)
    gone: list[str] = []
    monkeypatch.setattr(local.shutil, "rmtree", lambda path, **_: gone.append(path.name))
    monkeypatch.setattr(local.Path, "unlink", lambda path, **_: gone.append(path.name))
    monkeypatch.setattr(local.Path, "rmdir", lambda path: None)
    local.remove_places(places, "kttst", ())
    assert gone[-2:] == ["leaving", "node.json"]
