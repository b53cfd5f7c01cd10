"""kat-agent join against a real API over TLS: what a machine has then, and that it is left as it was otherwise."""

from __future__ import annotations

import stat
from types import SimpleNamespace

import pytest
from kat_auth_mtls.driver import MtlsAuth, MtlsConfig

from kat_platform.agent import join as joins
from kat_platform.agent.identity import OwnTls
from kat_platform.agent.join import Door, api_url, join
from kat_platform.agent.journal import Journal
from kat_platform.agent.local import Places, load_node
from kat_platform.agent.tables import NodeView, fold, peers
from kat_platform.errors import Conflict, Denied, HostNotReady, InvalidValue, Unauthenticated, Unavailable, UsageError
from kat_platform.interfaces.driver import CheckResult, DriverContext
from kat_platform.model.identity import NodeName
from kat_platform.model.node import NodeRole
from kat_platform.pki import certificates
from kat_platform.pki.authority import Authority
from kat_platform.pki.tokens import JoinToken, JoinTokenRecord, make_join_token
from kat_platform.state import keys
from kat_platform.testing.control_plane import CLUSTER_ID, ControlPlane

PUBLIC_KEY = "Q" * 43 + "="


class Network:
    """As much of a network driver as joining needs."""

    async def public_key(self):
        return PUBLIC_KEY


@pytest.fixture
async def plane(tmp_path):
    folder = tmp_path / "plane"
    folder.mkdir()
    plane = ControlPlane(folder, MtlsAuth(MtlsConfig(), DriverContext("n1", folder, folder, "kt")))
    await plane.start()
    yield plane
    await plane.stop()


@pytest.fixture
def host(monkeypatch):
    """A machine that will do: no drivers are asked."""
    state = SimpleNamespace(checks=())

    async def check(_configuration):
        return state.checks

    drivers = SimpleNamespace(drivers=SimpleNamespace(network=Network()))
    monkeypatch.setattr(joins, "check_host", check)
    monkeypatch.setattr(joins, "plugins_for", lambda node, places: drivers)
    return state


@pytest.fixture
def places(tmp_path):
    return Places(tmp_path / "data")


async def token_for(plane, *, fingerprint=None, ttl=60.0, uses=1):
    now = plane.server.api.now()
    token, record = make_join_token(
        fingerprint or plane.authority.fingerprint, NodeRole.WORKER, now=now, ttl=ttl, uses=uses
    )
    await plane.store.put(keys.join_token(record.id), record.to_json())
    return token.encode()


async def enter(plane, places, token, name="w1"):
    return await join(places, f"127.0.0.1:{plane.server.port}", token, name, {"disk": "ssd"})


def untouched(places):
    return not places.data.exists()


async def test_what_a_machine_has_afterwards(plane, host, places):
    await enter(plane, places, await token_for(plane))
    node = load_node(places)
    assert (node.node_name, node.role, node.cluster_id) == ("w1", NodeRole.WORKER, CLUSTER_ID)
    assert node.api_endpoints[0] == f"https://127.0.0.1:{plane.server.port}", "the one that has proved to answer"
    assert "https://192.0.2.1:9115" in node.api_endpoints
    own = OwnTls(places)
    assert certificates.identity_of(own.certificate()) == NodeName(CLUSTER_ID, "w1", NodeRole.WORKER)
    assert own.trust.pem() == plane.authority.pem()
    own.client()  # key and certificate fit
    assert stat.S_IMODE(places.key.stat().st_mode) == 0o600
    assert not (places.pki / "ca.key").exists()
    view = fold(NodeView("w1"), Journal(places.journal).load_view())
    assert str(view.subnet) == "10.100.2.0/23", "known before the API is asked for the first time"
    assert [(peer.node_name, peer.public_key, peer.endpoint) for peer in peers(view)] == [
        ("n1", "key-of-n1", ("192.0.2.1", 51820))
    ]
    with pytest.raises(Conflict, match="initialised already"):
        await enter(plane, places, await token_for(plane))


async def test_nothing_is_told_to_another_cluster(plane, host, places, monkeypatch):
    said = []
    monkeypatch.setattr(Door, "post", lambda self, path, body: said.append(path))
    token = await token_for(plane, fingerprint=Authority.create("kt-other").fingerprint)
    with pytest.raises(Unauthenticated, match="another cluster, or somebody in between"):
        await enter(plane, places, token)
    assert said == []
    assert untouched(places)


async def test_somebody_in_between_who_passes_the_ca_on_gets_no_token(plane, host, places):
    imposter = NodeName(CLUSTER_ID, "w7", NodeRole.WORKER)  # a worker's certificate, good for everything but the API
    plane.server._deps.tls.load_cert_chain(*plane.issue_node(imposter))
    with pytest.raises(Unauthenticated, match="not a control-plane node"):
        await enter(plane, places, await token_for(plane))
    assert untouched(places)


@pytest.mark.parametrize(
    ("spoil", "error", "words"),
    [
        (lambda t: t[:-3], InvalidValue, "damaged"),
        (lambda t: "kat_abc", InvalidValue, "not a join token"),
        (lambda t: JoinToken(**{**fields(t), "secret": bytes(24)}).encode(), Unauthenticated, "unknown"),
        (lambda t: JoinToken(**{**fields(t), "role": NodeRole.CONTROL_PLANE}).encode(), Unauthenticated, "unknown"),
    ],
)
async def test_a_token_that_is_not_as_it_was_made(plane, host, places, spoil, error, words):
    with pytest.raises(error, match=words):
        await enter(plane, places, spoil(await token_for(plane)))
    assert untouched(places)


def fields(text):
    token = JoinToken.decode(text)
    return {name: getattr(token, name) for name in ("id", "fingerprint", "role", "secret")}


async def test_a_name_that_is_taken_leaves_machine_and_token_as_they_were(plane, host, places):
    token = await token_for(plane)
    with pytest.raises(Conflict, match="there is a node 'n1' already"):
        await enter(plane, places, token, "n1")
    assert untouched(places)
    await enter(plane, places, token, "w1")


async def test_a_host_that_will_not_do_costs_no_use(plane, host, places):
    token = await token_for(plane)
    host.checks = (CheckResult("tunnel", False, "there is none", "install one"),)
    with pytest.raises(HostNotReady, match="install one"):
        await enter(plane, places, token)
    assert untouched(places)
    host.checks = ()
    await enter(plane, places, token)


async def test_an_answer_that_is_lost_is_asked_for_again(plane, host, places, monkeypatch):
    whole, lost = Door._post, []

    async def lossy(self, path, body):
        answer = await whole(self, path, body)
        if path == "join" and not lost:
            lost.append(answer)
            raise Unavailable("the line went dead")
        return answer

    monkeypatch.setattr(Door, "_post", lossy)
    await enter(plane, places, await token_for(plane))
    assert len(lost) == 1
    record = JoinTokenRecord.from_json((await plane.store.list(keys.JOIN_TOKENS)).entries[0].value)
    assert (record.uses_left, list(record.used_by)) == (0, ["w1"])
    names = {e.key.removeprefix(keys.NODES) for e in (await plane.store.list(keys.NODES)).entries}
    assert names == {"n1", "w1"}


async def test_a_join_that_was_killed_in_the_middle_goes_on(plane, host, places, monkeypatch):
    token = await token_for(plane)

    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(joins, "_keep", killed)
        patch.setattr("kat_platform.agent.bootstrap.remove_places", lambda *_: None)  # as SIGKILL would
        patch.setattr("kat_platform.agent.bootstrap.shutil.rmtree", lambda *_, **__: None)
        with pytest.raises(KeyboardInterrupt):
            await enter(plane, places, token)
    assert places.key.exists()
    assert not places.node_file.exists()
    node = await enter(plane, places, token)
    assert node.node_name == "w1"
    OwnTls(places).client()


async def test_nobody_there(host, places):
    token, _ = make_join_token("ab" * 32, NodeRole.WORKER, now=0.0, ttl=60.0)
    with pytest.raises(Unavailable, match="does not answer"):
        await join(places, "127.0.0.1:1", token.encode(), "w1", {})
    assert untouched(places)


async def test_a_token_of_another_role_is_said(plane, host, places, monkeypatch):
    token = JoinToken.decode(await token_for(plane))

    class Raised:
        role, fingerprint = NodeRole.CONTROL_PLANE, token.fingerprint

        @staticmethod
        def decode(_text):
            return Raised

    text = token.encode()
    monkeypatch.setattr(joins, "JoinToken", Raised)
    with pytest.raises(Denied, match="for a worker node"):
        await enter(plane, places, text)
    assert untouched(places)


@pytest.mark.parametrize(
    ("given", "url"),
    [
        ("192.0.2.1", "https://192.0.2.1:9115"),
        ("kat.example.org:99", "https://kat.example.org:99"),
        ("https://192.0.2.1:9115/", "https://192.0.2.1:9115"),
    ],
)
def test_addresses(given, url):
    assert api_url(given) == url


@pytest.mark.parametrize("given", ["", ":9115", "host:", "host:x", "host:0", "host:70000", "host/path"])
def test_what_is_no_address(given):
    with pytest.raises(UsageError):
        api_url(given)
