"""The CA is changed and a node is removed, for real: nothing stops meanwhile, and nobody gets in afterwards."""

from __future__ import annotations

import json
import shutil
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest

from kat_platform import __version__
from kat_platform.cli import context as contexts
from kat_platform.cli.client import Client
from kat_platform.cli.context import Context
from kat_platform.errors import Unauthenticated
from kat_platform.pki.trust import Trust

from .host import wait_for
from .lab import MakeLab, agent
from .test_control_plane import NODES, Trio, Writer
from .test_lab import RealLab, make_lab

__all__ = ["make_lab"]

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]
ALL = (*NODES, "n4")


class Load:
    """Asks a web server behind a virtual IP all the time, and counts what fails."""

    def __init__(self, lab: RealLab, node: str, url: str) -> None:
        self._lab, self._node, self._url = lab, node, url
        self.answered = 0
        self.failed: list[str] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="kt-load")

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                self._lab.lab("exec", self._node, "--", sys.executable, "-c", _ASK_TEN, self._url, timeout=60)
                self.answered += 10
            except AssertionError as error:
                self.failed.append(str(error)[-400:])

    def __enter__(self) -> Load:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()


_ASK_TEN = """
import sys, time, urllib.request as u
for _ in range(10):
    u.urlopen(sys.argv[1], timeout=5).read()
    time.sleep(0.05)
"""

TRY = """
import socket, ssl, sys
ca, certificate, key, host, port, name, path = sys.argv[1:]
tls = ssl.create_default_context(cafile=ca)
tls.load_cert_chain(certificate, key)
tls.check_hostname = False
try:
    plain = socket.create_connection((host, int(port)), 5, source_address=("127.0.0.1", 0))
    with tls.wrap_socket(plain, server_hostname=name) as talk:
        talk.sendall(f"GET {path} HTTP/1.1\\r\\nHost: {name}\\r\\nConnection: close\\r\\n\\r\\n".encode())
        said = b""
        while more := talk.recv(65536):
            said += more
except OSError as error:
    said = b"" if isinstance(error, (ssl.SSLError, ConnectionError)) else repr(error).encode()
print(said.decode(errors="replace") or "refused")
"""
"""Says what a server answers to a certificate; ``refused`` when it ends the connection without a word.

It comes from 127.0.0.1, which is in every certificate that was renewed: etcd looks at where a caller comes from, too.
"""


class Four(Trio):
    """Three control-plane nodes and a worker."""

    def all_ready(self) -> bool:
        """Tell whether every node is ready, as each control-plane node knows it."""
        for node in NODES:
            items = self.through(node).get("nodes", consistent=True)["items"]
            if len(items) != len(ALL) or not all(item["ready"] for item in items):
                return False
        return True

    def context(self) -> Context:
        """Give the lab's context as it is kept now."""
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("KAT_CONFIG", self.environment["KAT_CONFIG"])
            return contexts.load(f"lab-{self.name}")

    def pki(self, node: str) -> Path:
        """Where a node's certificates are."""
        return self.folder / self.name / node / "data/pki"

    def tried(self, source: str, files: Path, host: str, port: int, path: str) -> str:
        """Give what a server answers on a node to the certificate in a folder."""
        words = (str(files / "ca.pem"), str(files / "node.pem"), str(files / "node.key"), host, str(port))
        return self.lab("exec", source, "--", sys.executable, "-c", TRY, *words, "kat-api", path, timeout=30)


@pytest.fixture(scope="module")
def lab(make_lab: MakeLab) -> Four:
    """The lab, with a web server behind a virtual IP. A node whose agent is stopped for a moment is not given up."""
    made = make_lab(Four, nodeLossTimeoutSeconds=40)
    made.up(4)
    made.apply("web", replicas=4)
    wait_for(lambda: made.settled(4), "four instances are ready", 40)
    return made


def joining(lab: Four) -> list[str]:
    """Make a join token, and give the words that join with it."""
    words = lab.katcall("token", "create", "--role", "worker", "--uses", "2").split()
    assert words[:2] == ["kat-agent", "join"]
    return words[1:]


def applying(words: list[str]) -> dict[str, str]:
    """Give what a machine that has a token asks with whether it may join."""
    return {"token": words[words.index("--token") + 1], "name": "n9", "role": "worker", "version": __version__}


def stepped_down(lab: Four, since: float) -> list[str]:
    """Give every event since then that says that a node or an instance was not well."""
    items = [*lab.client.get("events")["items"], *lab.client.get("namespaces", "default", "events")["items"]]
    wrong = ("NodeNotReady", "NodeLost", "Lost", "Unhealthy")
    found = [i["event"] for i in items if i["event"]["lastAt"] >= since and i["event"]["reason"] in wrong]
    return [f"{each['reason']} {each['objectName']}: {each['message']}" for each in found]


def test_the_ca_is_changed_under_load_and_a_node_that_was_away_catches_up(lab: Four) -> None:
    former, old_join = lab.context(), joining(lab)
    bearer = str(lab.client.post("tokens", body={"name": "kt", "role": "admin"})["token"])
    running = {pid: start for node in ALL for pid, start in lab.served(node).items()}
    assert len(running) == 4
    address = lab.client.get("namespaces", "default", "workloads", "web")["virtualIp"]
    began = time.time()
    lab.lab("stop", "--only", "agent", "n4")
    lab.client = Client(replace(former, token=bearer))  # it trusts the former CA only, to the end
    with Writer(lab) as writer, Load(lab, "n1", f"http://{address}/cgi-bin/who") as load:
        lab.katcall("ca", "rotate", "--no-wait")
        wait_for(lambda: "1 node left" in lab.katcall("ca", "status"), "it waits for n4 alone", 60)
        said = lab.katcall("ca", "status")
        assert "n4: away; does not trust the new CA yet" in said or "n4: does not trust" in said
        during = joining(lab)
        lab.lab("start", "n4")
        lab.katcall("ca", "rotate", "--no-finish", "--timeout", "60s")
        served = lab.through("n2").get("nodes")["items"]
        assert len(served) == 4, "who knows only the former CA is served while both are trusted"
        lab.client.post("join", "prepare", body=applying(old_join))
        lab.katcall("context", "refresh")
        lab.katcall("ca", "rotate", "--timeout", "60s")
        wait_for(lab.all_ready, "every node is ready", 30)
    fresh = lab.context()
    new = Trust.read(fresh.ca.encode())
    assert not set(new.fingerprints) & set(Trust.read(former.ca.encode()).fingerprints)
    for node in ALL:
        assert Trust.read((lab.pki(node) / "ca.pem").read_bytes()).fingerprints == new.fingerprints
    assert len({(lab.pki(node) / "ca.key").read_bytes() for node in NODES}) == 1
    assert not (lab.pki("n4") / "ca.key").exists(), "a worker never has the CA's key"
    assert load.answered > 50
    assert load.failed == []
    assert len(writer.acknowledged) >= 20
    lab.client = Client(replace(fresh, token=bearer, certificate=None, key=None))
    for node in NODES:
        names = {item["name"] for item in lab.through(node).get("namespaces", consistent=True)["items"]}
        assert not writer.acknowledged - names, f"{node} lacks what was acknowledged"
    assert {p: s for node in ALL for p, s in lab.served(node).items()} == running, "a container was started anew"
    assert [line for line in stepped_down(lab, began) if "n4" not in line] == []
    for context in (former, replace(fresh, certificate=former.certificate, key=former.key)):
        with pytest.raises(Unauthenticated, match="former CA"):
            Client(context).get("nodes")
    Client(fresh).get("nodes")
    for words in (old_join, during):
        with pytest.raises(Unauthenticated, match="former CA"):
            lab.client.post("join", "prepare", body=applying(words))
    assert "former CA" in lab.katcall("token", "ls")


def test_a_removed_nodes_certificate_is_refused_everywhere_and_it_joins_anew(lab: Four, tmp_path: Path) -> None:
    lab.client = Client(lab.context())
    files, well = tmp_path / "gone", tmp_path / "well"
    shutil.copytree(lab.pki("n3"), files)
    shutil.copytree(lab.pki("n2"), well)
    spec = lab.client.get("configuration")["document"]["spec"]
    nodes = {item["name"]: item["record"] for item in lab.client.get("nodes")["items"]}
    inside = {name: str(record["subnet"]).split("/")[0][:-1] + "1" for name, record in nodes.items()}
    places = {
        "API": ("127.0.0.1", spec["apiPort"], "/v1alpha1/nodes"),
        "agent": (inside["n1"], spec["agentPort"], "/agent/v1/instances/default/none/logs"),
        "store": (inside["n1"], spec["etcdPeerPort"], "/version"),
    }
    for what, (host, port, path) in places.items():
        before = lab.tried("n1", files, host, port, path)
        assert before.startswith("HTTP/1.1 "), f"{what}: {before}"
        assert "revoked" not in before
    lab.lab("stop", "--only", "agent", "n3")
    lab.katcall("node", "remove", "n3", "--force")

    def refused() -> bool:
        answers = {what: lab.tried("n1", files, host, port, path) for what, (host, port, path) in places.items()}
        return (
            answers["API"].startswith("HTTP/1.1 401 ")
            and "revoked" in answers["API"]
            and answers["agent"].startswith("HTTP/1.1 403 ")
            and "revoked" in answers["agent"]
            and answers["store"].strip() == "refused"
        )

    wait_for(refused, "API, agent and store refuse the removed node's certificate", 10)
    for what, (host, port, path) in places.items():
        assert lab.tried("n1", well, host, port, path).startswith("HTTP/1.1 "), f"{what} refuses others too"
    agent(lab, "n3", "reset", "--yes")
    words = joining(lab)
    agent(lab, "n3", *words, "--name", "n3")
    lab.lab("start", "n3")
    wait_for(lambda: lab.ready_nodes() == set(ALL), "it is a node again, as a worker", 40)
    record = json.loads((lab.folder / lab.name / "n3/data/node.json").read_text())
    assert record["role"] == "worker"
    with pytest.raises(AssertionError, match="is a worker"):
        agent(lab, "n3", "context")
    assert f"context '{record['clusterId']}'" in agent(lab, "n1", "context")
    katcall = (sys.executable, "-P", "-m", "kat_platform.cli.main", "--context", record["clusterId"])
    assert "n3" in lab.lab("exec", "n1", "--", *katcall, "node", "ls")
