"""katcall with servers that are dead, frozen or of another cluster: real sockets, and servers that note what comes."""

from __future__ import annotations

import http.server
import json
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import ExitStack, contextmanager

import pytest

from kat_platform.cli import client as clients
from kat_platform.cli import context as kept
from kat_platform.cli import race as races
from kat_platform.cli.client import Client
from kat_platform.errors import TimedOut, Unauthenticated, Unavailable
from kat_platform.model.identity import NodeName, NodeRole, UserName
from kat_platform.pki import certificates
from kat_platform.pki.authority import Authority
from kat_platform.pki.tls import server_context

QUICK_SECONDS = 3.0
"""Generous: with two dead servers it is about half a second, and without a race at least ten."""


def url(port):
    return f"https://127.0.0.1:{port}"


@contextmanager
def closed():
    """A machine that is on, without an agent: connections are refused."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))  # taken, but nobody listens
        yield url(one.getsockname()[1])


@contextmanager
def silent():
    """A frozen agent: the kernel takes connections, and nobody ever answers."""
    with socket.create_server(("127.0.0.1", 0)) as one:
        yield url(one.getsockname()[1])


@contextmanager
def blackhole():
    """A machine without power: nothing comes back at all, because the queue of the one that listens is full."""
    with ExitStack() as stack:
        one = stack.enter_context(socket.socket())
        one.bind(("127.0.0.1", 0))
        one.listen(0)
        for _ in range(4):
            other = stack.enter_context(socket.socket())
            other.setblocking(False)
            other.connect_ex(one.getsockname())
        time.sleep(0.05)
        probe = stack.enter_context(socket.socket())
        probe.settimeout(0.1)
        with pytest.raises(TimeoutError):
            probe.connect(one.getsockname())
        yield url(one.getsockname()[1])


@pytest.fixture
def dead():
    """Make servers of these kinds."""
    kinds = {"closed": closed, "silent": silent, "blackhole": blackhole}
    with ExitStack() as stack:
        yield lambda *names: [stack.enter_context(kinds[name]()) for name in names]


class Server(http.server.ThreadingHTTPServer):
    """Answers as the API does, in a thread; ``asked`` is what came. ``trouble`` says what is wrong with it."""

    daemon_threads = True

    def __init__(self, tls):
        super().__init__(("127.0.0.1", 0), Handler)
        self.socket = tls.wrap_socket(self.socket, server_side=True, do_handshake_on_connect=False)
        self.asked, self.trouble, self.released = [], "", threading.Event()
        self.url = url(self.server_address[1])
        threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True).start()

    def handle_error(self, request, client_address):
        """Losers hang up in the middle of the handshake."""


class Handler(http.server.BaseHTTPRequestHandler):
    def answer(self):
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.server.asked.append(f"{self.command} {self.path}")
        trouble = self.server.trouble
        if trouble == "breaks off":
            return
        if trouble == "says nothing":
            self.server.released.wait(20)
            return
        codes = {"no majority": "cut-off", "busy": "unavailable"}
        refused = trouble in codes and (trouble == "busy" or "consistent" in self.path)
        body = {"code": codes[trouble], "detail": f"node 'n1' has {trouble}"} if refused else {"items": []}
        data = json.dumps(body).encode()
        self.send_response(503 if refused else 200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    do_GET = do_POST = answer

    def log_message(self, *_):
        """Nobody reads it."""


@pytest.fixture(scope="module")
def authority():
    return Authority.create("kt-race")


@pytest.fixture(scope="module")
def tls(authority, tmp_path_factory):
    """Make server TLS contexts of a cluster."""

    def make(of=authority):
        folder = tmp_path_factory.mktemp("tls")
        key = certificates.make_key()
        made = of.issue_node(key.public_key(), NodeName(of.cluster_id, "n1", NodeRole.CONTROL_PLANE), domain="x")
        (folder / "cert").write_bytes(certificates.certificate_pem(made))
        (folder / "key").write_bytes(certificates.key_pem(key))
        return server_context(of.pem(), folder / "cert", folder / "key")

    return make


@pytest.fixture
def serve(tls):
    """Make servers; of another cluster with another authority."""
    made = []

    def make(**options):
        made.append(Server(tls(**options)))
        return made[-1]

    yield make
    for one in made:
        one.released.set()
        one.shutdown()
        one.server_close()


@pytest.fixture(scope="module")
def context(authority):
    """Make contexts of the cluster with these servers."""
    key = certificates.make_key()
    user = authority.issue_user(key.public_key(), UserName("kt-race", "root", {"*": "admin"}))
    pems = (certificates.certificate_pem(user).decode(), certificates.key_pem(key).decode())
    return lambda *servers: kept.Context("kt", servers, authority.pem().decode(), *pems)


@pytest.fixture
def told():
    return []


@pytest.fixture
def client(context, told):
    return lambda *servers: Client(context(*(getattr(s, "url", s) for s in servers)), told.append)


DEAD = [("blackhole", "blackhole"), ("silent", "silent"), ("closed", "blackhole"), ("blackhole", "silent")]


@pytest.mark.parametrize("kinds", DEAD)
def test_dead_and_frozen_servers_are_passed_quickly(dead, serve, client, kinds):
    began = time.monotonic()
    good = serve()
    one = client(*dead(*kinds), good)
    assert one.get("nodes") == {"items": []}
    assert time.monotonic() - began < QUICK_SECONDS
    began = time.monotonic()
    one.post("tokens")
    assert time.monotonic() - began < races.HEAD_START_SECONDS, "it stays with the one that answered"
    assert good.asked == ["GET /v1alpha1/nodes?consistent=true", "POST /v1alpha1/tokens"]


def test_a_whole_process_with_dead_servers_is_not_held_up_at_its_end(cluster, become, dead):
    become("root", "admin", servers=[*dead("blackhole", "silent"), cluster.plane.url])
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-m", "kat_platform.cli.main", "get", "nodes"], capture_output=True, timeout=30, check=False
    )
    assert (done.returncode, done.stderr) == (0, b"")
    assert time.monotonic() - began < QUICK_SECONDS + 1


def test_ctrl_c_works_at_once(become, dead):
    become("root", "admin", servers=dead("blackhole", "silent"))
    child = subprocess.Popen(
        [sys.executable, "-m", "kat_platform.cli.main", "get", "nodes"],
        stderr=subprocess.PIPE,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    time.sleep(1.2)
    began = time.monotonic()
    child.send_signal(signal.SIGINT)
    said = child.communicate(timeout=20)[1]
    assert child.returncode == 130, said
    assert time.monotonic() - began < 1.5


def test_one_server_that_is_well_is_asked_alone(serve, client, dead):
    with socket.create_server(("127.0.0.1", 0)) as idle:
        one = client(serve(), url(idle.getsockname()[1]))
        one.get("nodes")
        assert not select.select([idle], [], [], 0)[0], "nobody came to the second"


def test_losers_are_closed(serve, client):
    with socket.create_server(("127.0.0.1", 0)) as frozen:
        client(url(frozen.getsockname()[1]), serve()).get("nodes")
        loser, _ = frozen.accept()
        with loser:
            loser.settimeout(2)
            assert loser.recv(1), "it began with TLS"
            while loser.recv(4096):
                pass


def test_a_name_is_tried_at_each_of_its_addresses(serve, client, monkeypatch):
    good = serve()
    port = good.server_address[1]
    real = socket.getaddrinfo

    def look_up(name, *rest, **options):
        if name == "nowhere.test":
            raise socket.gaierror(-2, "Name or service not known")
        found = [real(at, *rest, **options) for at in ("127.0.0.2", "127.0.0.1")]
        return [address for each in found for address in each]

    monkeypatch.setattr(races.socket, "getaddrinfo", look_up)
    one = client("https://nowhere.test:1", f"https://two.test:{port}")
    assert one.get("nodes") == {"items": []}
    with pytest.raises(Unavailable, match=r"nowhere\.test:1 does not answer: Name or service not known"):
        client("https://nowhere.test:1").get("nodes")


def test_all_that_do_not_answer_are_named_with_the_reason(dead, client, monkeypatch):
    monkeypatch.setattr(races, "CONNECT_SECONDS", 0.5)
    servers = dead("blackhole", "closed", "silent")
    began = time.monotonic()
    with pytest.raises(Unavailable) as caught:
        client(*servers).get("nodes")
    assert time.monotonic() - began < QUICK_SECONDS
    assert caught.value.message.startswith("the API does not answer at any of its 3 servers: nothing comes within ")
    assert f"({servers[0]}, {servers[2]}); connection refused ({servers[1]})" in caught.value.message
    with pytest.raises(Unavailable, match=f"^the API at {servers[0]} does not answer: nothing comes"):
        client(servers[0]).get("nodes")


def test_a_wrong_certificate_is_told_only_when_no_server_is_right(dead, serve, client, monkeypatch):
    monkeypatch.setattr(races, "CONNECT_SECONDS", 0.5)
    other = serve(of=Authority.create("kt-other"))
    assert client(other, *dead("closed"), serve()).get("nodes") == {"items": []}
    with pytest.raises(Unauthenticated) as caught:
        client(*dead("blackhole"), other, *dead("closed")).get("nodes")
    assert f"the server at {other.url} is not of the cluster of context 'kt'" in caught.value.message
    assert caught.value.message.endswith("; 2 other servers do not answer")


@pytest.mark.parametrize("trouble", ["breaks off", "says nothing"])
def test_what_only_reads_is_asked_of_another_server_and_what_writes_is_not(serve, client, monkeypatch, trouble):
    monkeypatch.setattr(clients, "PATIENCE_SECONDS", 0.3)
    bad, good = serve(), serve()
    bad.trouble = trouble
    assert client(bad, good).get("nodes") == {"items": []}
    assert len(bad.asked) == len(good.asked) == 1
    kind = TimedOut if trouble == "says nothing" else Unavailable
    with pytest.raises(kind) as caught:
        client(bad, good).request("POST", "/v1alpha1/tokens", body=b"{}", timeout=0.6)
    assert bad.url in caught.value.message
    assert (len(bad.asked), len(good.asked)) == (2, 1), "it may have been done"
    good.trouble = trouble
    with pytest.raises(kind):
        client(bad, good).request("GET", "/v1alpha1/nodes", timeout=0.6)
    assert (len(bad.asked), len(good.asked)) == (3, 2), "twice, and no more"


def test_a_server_is_asked_for_all_that_was_written_elsewhere_once(serve, client):
    first, second = serve(), serve()
    one = client(first, second)
    for _ in range(2):
        one.get("nodes")
    one.post("tokens")
    one.get("tokens")
    assert [each.endswith("?consistent=true") for each in first.asked] == [True, False, False, False]
    first.trouble = "breaks off"
    one.get("tokens")  # the second takes over
    one.get("tokens")
    assert [each.endswith("?consistent=true") for each in second.asked] == [True, False]
    alone = client(second)
    alone.get("nodes")
    assert second.asked[-1] == "GET /v1alpha1/nodes", "where there is no other, nothing was written elsewhere"


def test_who_has_written_through_another_server_reads_all_of_it(serve, client):
    first, second = serve(), serve()
    one = client(first, second)
    one.get("nodes")
    first.shutdown()
    first.server_close()
    one.post("tokens")
    one.get("tokens")
    assert second.asked == ["POST /v1alpha1/tokens?consistent=true", "GET /v1alpha1/tokens"]


def test_what_may_have_been_written_elsewhere_is_asked_for_again(serve, client):
    first, second = serve(), serve()
    one = client(first, second)
    one.get("nodes")
    first.trouble, second.trouble = "breaks off", "busy"
    with pytest.raises(Unavailable):
        one.get("nodes")
    second.trouble = "breaks off"
    with pytest.raises(Unavailable):
        one.post("tokens")  # through the second, which may have done it
    first.trouble = ""
    second.shutdown()
    second.server_close()
    one.get("tokens")
    assert first.asked[-1] == "GET /v1alpha1/tokens?consistent=true"


def test_a_server_that_is_cut_off_is_left_for_one_that_is_well(serve, client, told):
    bad, good, other = serve(), serve(), serve()
    bad.trouble = "no majority"
    one = client(bad, good, other)
    one.post("tokens")
    one.get("nodes")
    assert bad.asked == ["POST /v1alpha1/tokens?consistent=true"], "which it refused before it did anything"
    assert good.asked == ["POST /v1alpha1/tokens?consistent=true", "GET /v1alpha1/nodes"]
    client(bad, good, other).get("nodes")
    assert (len(bad.asked), len(good.asked), len(other.asked), told) == (2, 3, 0, [])


def test_a_server_that_lacks_something_else_is_not_taken_for_cut_off(serve, client, told):
    first, second = serve(), serve()
    first.trouble = "busy"
    with pytest.raises(Unavailable, match="has busy"):
        client(first, second).post("tokens")
    with pytest.raises(Unavailable, match="has busy"):
        client(first, second).get("nodes")
    assert (len(first.asked), second.asked, told) == (2, [], [])


@pytest.mark.parametrize("others", [["closed", "blackhole"], ["cut off", "cut off"]])
def test_without_a_majority_reads_go_on_with_a_word_and_writes_do_not(dead, serve, client, told, monkeypatch, others):
    server, *rest = made = [serve() for _ in range(1 + others.count("cut off"))]
    for each in made:
        each.trouble = "no majority"
    one = client(server, *(rest or dead(*others)))
    for _ in range(3):
        assert one.get("nodes") == {"items": []}
    assert told == ["what follows may be out of date: node 'n1' has no majority"], "once"
    plain, asked = "GET /v1alpha1/nodes", "GET /v1alpha1/nodes?consistent=true"
    came = [line for each in made for line in each.asked]
    assert came.count(plain) == 3
    assert came.count(asked) == (2 if rest else 1), "a majority of them is proof enough, and each takes a while"
    with pytest.raises(Unavailable, match=r"^nothing was changed: node 'n1' has no majority"):
        one.post("tokens")
    with pytest.raises(Unavailable, match=r"^node 'n1' has no majority"):
        one.get("nodes", consistent=True)  # whoever asks for it means it
    monkeypatch.setattr(time, "monotonic", lambda real=time.monotonic: real() + 60)
    for each in made:
        each.trouble = ""
        each.asked.clear()
    one.get("nodes")
    one.get("nodes")
    assert [line for each in made for line in each.asked] == [asked, plain]


def test_a_write_that_nobody_takes_is_refused_and_was_sent_to_no_more_than_are_needed(serve, client, told):
    made = [serve() for _ in range(5)]
    for each in made:
        each.trouble = "no majority"
    one = client(*made)
    for _ in range(2):
        with pytest.raises(Unavailable, match=r"^nothing was changed: node 'n1' has no majority"):
            one.post("tokens")
    assert [each.asked for each in made] == [["POST /v1alpha1/tokens?consistent=true"]] * 3 + [[]] * 2
    assert told == []


def test_nothing_heavy_is_imported_for_it():
    code = "import sys, kat_platform.cli.client; print([m for m in ('asyncio', 'aiohttp') if m in sys.modules])"
    assert subprocess.check_output([sys.executable, "-c", code], env={**os.environ}) == b"[]\n"
