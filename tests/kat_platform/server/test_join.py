"""Joining over real TLS: what admits a machine, and every way in which one is turned away, with its audit record."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from ipaddress import IPv4Network

import pytest
from cryptography import x509

from kat_platform.model.cluster import ClusterConfiguration
from kat_platform.model.identity import NodeName
from kat_platform.model.meta import Metadata
from kat_platform.model.node import NodeRecord, NodeReport, NodeRole
from kat_platform.pki import certificates
from kat_platform.pki.authority import Authority
from kat_platform.pki.files import write_whole
from kat_platform.pki.tls import client_context
from kat_platform.pki.tokens import JoinToken, JoinTokenRecord, make_join_token
from kat_platform.server.audit import AuditRecord
from kat_platform.state import keys
from kat_platform.testing.control_plane import CLUSTER_ID, ControlPlane

from .conftest import Caller, auth

KEY = "A" * 43 + "="
WORKER, CONTROL = NodeRole.WORKER, NodeRole.CONTROL_PLANE


class Machine:
    """A machine that wants to join, with a key of its own."""

    def __init__(self, name="w1", role=WORKER, public_key=KEY, cluster=CLUSTER_ID):
        self.name, self.role, self.public_key = name, role, public_key
        self.key = certificates.make_key()
        self.csr = certificates.make_csr(self.key, NodeName(cluster, name, role)).decode()

    def body(self, token, **more):
        made = {
            "token": token,
            "csr": self.csr,
            "name": self.name,
            "role": self.role.value,
            "version": "1.0.0",
            "publicKey": self.public_key,
            "addresses": ["192.0.2.7"],
        }
        return {**made, **more}


@pytest.fixture
async def stranger(plane, caller_of):
    async with caller_of(plane.anonymous_tls()) as caller:
        yield caller


async def token_of(admin, **more):
    return (await admin.post("/join-tokens", more, status=201))["token"]


async def audited(plane):
    await plane.server.api.audit.flush()
    page = await plane.store.list(keys.AUDIT)
    return [AuditRecord.from_json(entry.value) for entry in page.entries]


async def refused(plane, stranger, body, status, words, code):
    """Send a join; expect the refusal with these words, its audit record, and nothing changed."""
    before = {e.key for e in (await plane.store.list(keys.NODES)).entries}
    found = await stranger.post("/join", body, status=status)
    assert words in found["detail"], found
    assert found["code"] == code
    record = (await audited(plane))[-1]
    assert (record.decision, record.code, record.status) == ("denied", code, status)
    assert record.who.startswith("join token")
    assert record.reason == found["detail"]
    assert body["token"] not in record.to_json().decode()
    assert {e.key for e in (await plane.store.list(keys.NODES)).entries} == before
    return found


async def test_a_machine_becomes_a_node(plane, admin, stranger):
    machine = Machine()
    token = await token_of(admin)
    ready = await stranger.post("/join/prepare", {"token": token, "name": "w1", "version": "1.0.3"})
    assert ready["clusterId"] == CLUSTER_ID
    assert ready["configuration"]["spec"]["apiPort"] == 9115
    made = await stranger.post("/join", machine.body(token, labels={"disk": "ssd"}), status=201)
    signed = certificates.load_certificate(made["certificate"].encode())
    assert certificates.identity_of(signed) == NodeName(CLUSTER_ID, "w1", WORKER)
    assert signed.public_key() == machine.key.public_key()
    assert made["ca"].encode() == plane.authority.pem()
    assert made["node"]["subnet"] == "10.100.2.0/23"
    assert made["node"]["labels"] == {"disk": "ssd"}
    assert made["cluster"]["apiEndpoints"] == ["https://192.0.2.1:9115", "https://10.100.0.1:9115"]
    peers = {item["name"]: item for item in made["nodes"]}
    assert peers["n1"]["publicKey"] == "key-of-n1"
    assert peers["w1"]["addresses"] == ["192.0.2.7"]
    assert (await admin.get("/nodes/w1"))["ready"] is False, "joining is no sign of life"
    assert await plane.store.get(keys.certificate("w1", signed.serial_number)) is not None
    assert [r.decision for r in await audited(plane)][-1] == "allowed"


async def test_the_new_certificate_speaks_for_its_node_only(plane, admin, stranger, caller_of, tmp_path):
    machine = Machine()
    made = await stranger.post("/join", machine.body(await token_of(admin)), status=201)
    write_whole(tmp_path / "w1.pem", made["certificate"].encode())
    write_whole(tmp_path / "w1.key", certificates.key_pem(machine.key))
    tls = client_context(made["ca"].encode(), tmp_path / "w1.pem", tmp_path / "w1.key")
    async with caller_of(tls) as node:
        await node.post("/nodes/w1/heartbeat", {"ttlSeconds": 8})
        await node.post("/nodes/n1/heartbeat", {"ttlSeconds": 8}, status=403)
        await node.post("/nodes/n1/report", {}, status=403)
        await node.get("/nodes/n1/view", status=403)
        await node.post("/nodes/n1/renew", {"csr": machine.csr}, status=403)
        await node.get("/workloads", status=403)
        await node.get("/join-tokens", status=403)
        await node.post("/join-tokens", {}, status=403)
        await node.post("/nodes/n1/cordon", {}, status=403)
        await node.ask("PUT", "/v1alpha1/configuration", 403, json={})


async def test_ca_is_given_to_anybody(plane, stranger):
    _, found, _ = await stranger.ask("GET", "/ca", 200)
    assert found == {"ca": plane.authority.pem().decode(), "trusted": plane.authority.pem().decode()}


async def test_a_join_token_names_the_server_that_answers_first(plane, admin):
    port = ClusterConfiguration(metadata=Metadata(name="cluster")).spec.api_port
    await plane.add_node("n0", NodeRole.CONTROL_PLANE, "10.100.4.0/23")
    report = NodeReport.from_json((await plane.store.get(keys.node_report("n0"))).value)
    await plane.store.put(keys.node_report("n0"), report.model_copy(update={"addresses": ("192.0.2.9",)}).to_json())
    await plane.settled()
    made = await admin.post("/join-tokens", {}, status=201)
    assert made["servers"][:2] == [f"https://192.0.2.1:{port}", f"https://192.0.2.9:{port}"]


async def test_only_administrators_handle_join_tokens(plane, caller_of, admin):
    token_id = (await admin.post("/join-tokens", {"uses": 3}, status=201))["id"]
    for role in ("edit", "view"):
        async with caller_of(plane.user_tls(f"u-{role}", role)) as caller:
            await caller.post("/join-tokens", {}, status=403)
            await caller.get("/join-tokens", status=403)
            await caller.ask("DELETE", f"/v1alpha1/join-tokens/{token_id}", 403)
    listed = (await admin.get("/join-tokens"))["items"]
    assert [(item["id"], item["usesLeft"], item["createdBy"]) for item in listed] == [(token_id, 3, "root")]
    assert "sha256" not in listed[0]
    assert "token" not in listed[0]
    await admin.post("/join-tokens", {"uses": 0}, status=422)
    await admin.post("/join-tokens", {"ttlSeconds": 8 * 86400}, status=422)


async def test_expired(plane, admin, stranger):
    token, record = make_join_token(plane.authority.fingerprint, WORKER, now=1000.0, ttl=60.0)
    await plane.store.put(keys.join_token(record.id), record.to_json())
    await refused(plane, stranger, Machine().body(token.encode()), 401, "has expired", "unauthenticated")


async def test_used_up_and_replayed(plane, admin, stranger):
    first = Machine()
    token = await token_of(admin)
    body = first.body(token)
    await stranger.post("/join", body, status=201)
    other = Machine("w2", public_key="B" * 43 + "=")
    await refused(plane, stranger, other.body(token), 401, "used up", "unauthenticated")
    thief = Machine("w1")  # knows the token, the name and the public overlay key, but has another private key
    await refused(plane, stranger, thief.body(token), 401, "used up", "unauthenticated")
    # The very same request again is the same machine whose answer was lost: it gets in once, with one record.
    again = await stranger.post("/join", body, status=201)
    signed = certificates.load_certificate(again["certificate"].encode())
    assert signed.public_key() == first.key.public_key()
    assert again["node"]["subnet"] == "10.100.2.0/23"
    await plane.store.delete(keys.node("w1"))  # removed by an operator: the old token is no way back
    await refused(plane, stranger, body, 401, "used up", "unauthenticated")


async def test_withdrawn(plane, admin, stranger):
    made = await admin.post("/join-tokens", {}, status=201)
    await admin.ask("DELETE", f"/v1alpha1/join-tokens/{made['id']}", 200)
    await refused(plane, stranger, Machine().body(made["token"]), 401, "unknown or was withdrawn", "unauthenticated")
    await admin.ask("DELETE", f"/v1alpha1/join-tokens/{made['id']}", 404)


async def test_tampered(plane, admin, stranger):
    text = await token_of(admin)
    flipped = text[:-4] + ("a" if text[-4] != "a" else "b") + text[-3:]
    await refused(plane, stranger, Machine().body(flipped), 401, "damaged", "unauthenticated")
    token = JoinToken.decode(text)
    raised = replace(token, role=CONTROL).encode()  # a role it was not made for, with a checksum that is right
    machine = Machine(role=CONTROL)
    await refused(plane, stranger, machine.body(raised), 401, "unknown or was withdrawn", "unauthenticated")
    guessed = replace(token, secret=bytes(24)).encode()
    await refused(plane, stranger, Machine().body(guessed), 401, "unknown or was withdrawn", "unauthenticated")
    await refused(plane, stranger, Machine().body("katjoin1_x"), 401, "damaged", "unauthenticated")


async def test_of_another_cluster(plane, admin, stranger):
    elsewhere = Authority.create("kt-other")
    token, record = make_join_token(elsewhere.fingerprint, WORKER, now=plane.server.api.now(), ttl=60.0)
    await plane.store.put(keys.join_token(record.id), record.to_json())
    await refused(plane, stranger, Machine().body(token.encode()), 401, "another cluster", "unauthenticated")


async def test_another_role_than_the_tokens(plane, admin, stranger):
    token = await token_of(admin)
    machine = Machine(role=CONTROL)
    await refused(plane, stranger, machine.body(token), 403, "for a worker node", "denied")


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        (NodeName(CLUSTER_ID, "n1", WORKER), "asks for"),
        (NodeName(CLUSTER_ID, "w1", CONTROL), "asks for"),
        (NodeName("kt-other", "w1", WORKER), "asks for"),
    ],
)
async def test_csr_for_somebody_else(plane, admin, stranger, asked, words):
    machine = Machine()
    machine.csr = certificates.make_csr(machine.key, asked).decode()
    token = await token_of(admin)
    await refused(plane, stranger, machine.body(token), 422, words, "invalid")
    left = JoinTokenRecord.from_json((await plane.store.list(keys.JOIN_TOKENS)).entries[0].value)
    assert left.uses_left == 1, "a refused request costs no use"


async def test_csr_that_is_none(plane, admin, stranger):
    token = await token_of(admin)
    await refused(plane, stranger, Machine().body(token, csr="hello"), 422, "malformed", "invalid")


async def test_name_and_key_that_are_taken(plane, admin, stranger):
    token = await token_of(admin, uses=5)
    await refused(plane, stranger, Machine("n1").body(token), 409, "there is a node 'n1' already", "conflict")
    await stranger.post("/join", Machine().body(token), status=201)
    await refused(plane, stranger, Machine("w2").body(token), 409, "copied from that node", "conflict")


@pytest.mark.parametrize("version", ["2.0.0", "1.2.0", "0.9"])
async def test_version_too_far_away(plane, admin, stranger, version):
    token = await token_of(admin)
    found = await refused(plane, stranger, Machine().body(token, version=version), 409, "cannot join", "conflict")
    assert found["hint"] == "install kat 1.0 on the new machine"
    await stranger.post("/join", Machine().body(token, version="1.1.7"), status=201)


@pytest.mark.parametrize(
    "wrong",
    [
        {"name": "W1"},
        {"publicKey": "x"},
        {"addresses": ["example.org"]},
        {"labels": {"a b": "c"}},
        {"listenPort": 0},
    ],
)
async def test_malformed(plane, admin, stranger, wrong):
    body = Machine().body(await token_of(admin), **wrong)
    found = await stranger.post("/join", body, status=422)
    assert found["code"] in ("invalid", "invalid-value")


async def test_the_control_plane_does_not_grow_while_one_of_it_is_away(plane, admin, stranger):
    token = await token_of(admin, role="control-plane")
    await plane.add_node("n2", CONTROL, "10.100.2.0/23", alive=False)
    await plane.settled()
    who = {"token": token, "name": "n3", "role": "control-plane", "version": "1.0.0"}
    found = await stranger.post("/join/prepare", who, status=503)
    assert "n2 is away" in found["detail"]
    await plane.store.put(keys.alive("n2"), b"{}")
    await plane.settled()
    await stranger.post("/join/prepare", who)


async def test_the_control_plane_has_at_most_five_members(plane, admin, stranger):
    token = await token_of(admin, role="control-plane")
    for number in range(2, 6):
        await plane.add_node(f"n{number}", CONTROL, f"10.100.{2 * number}.0/23")
    await plane.settled()
    who = {"token": token, "name": "n9", "role": "control-plane", "version": "1.0.0"}
    found = await stranger.post("/join/prepare", who, status=409)
    assert "has 5 nodes already" in found["detail"]


async def test_a_certificate_is_good_for_the_overlay_address(plane, admin, stranger):
    machine = Machine("n2", CONTROL)
    made = await stranger.post("/join", machine.body(await token_of(admin, role="control-plane")), status=201)
    certificate = x509.load_pem_x509_certificate(made["certificate"].encode())
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    own = IPv4Network(made["node"]["subnet"]).network_address + 1
    assert own in names.get_values_for_type(x509.IPAddress)
    assert certificates.API_SERVER_NAME in names.get_values_for_type(x509.DNSName)


async def test_many_at_once_get_subnets_of_their_own(plane, admin, stranger):
    token = await token_of(admin, uses=6)
    machines = [Machine(f"w{i}", public_key=f"{i}" * 43 + "=") for i in range(6)]
    made = await asyncio.gather(*(stranger.post("/join", m.body(token), status=201) for m in machines))
    subnets = {IPv4Network(each["node"]["subnet"]) for each in made}
    assert len(subnets) == 6
    await refused(plane, stranger, Machine("w9", public_key="9" * 44).body(token), 401, "used up", "unauthenticated")


async def test_a_use_is_counted_once_however_many_try(plane, admin, stranger):
    token = await token_of(admin)
    machines = [Machine(f"w{i}", public_key=f"{i}" * 43 + "=") for i in range(5)]
    answers = await asyncio.gather(*(stranger.ask("POST", "/v1alpha1/join", json=m.body(token)) for m in machines))
    assert sorted(status for status, _, _ in answers) == [201, 401, 401, 401, 401]


async def test_a_removed_nodes_subnet_is_given_again(plane, admin, stranger):
    token = await token_of(admin, uses=2)
    first = await stranger.post("/join", Machine().body(token), status=201)
    await plane.store.delete(keys.node("w1"))
    second = await stranger.post("/join", Machine("w2").body(token), status=201)
    assert second["node"]["subnet"] == first["node"]["subnet"]


async def test_no_subnet_left(tmp_path):
    plane = ControlPlane(tmp_path, auth(tmp_path))
    await plane.start()
    try:
        for number in range(1, 128):
            network = IPv4Network((int(IPv4Network("10.100.0.0/23").network_address) + 512 * number, 23))
            record = NodeRecord(name=f"x{number}", subnet=network)
            await plane.store.put(keys.node(record.name), record.to_json())
        token, record = make_join_token(plane.authority.fingerprint, WORKER, now=plane.server.api.now(), ttl=60.0)
        await plane.store.put(keys.join_token(record.id), record.to_json())
        async with Caller(plane, plane.anonymous_tls()) as stranger:
            found = await stranger.post("/join", Machine().body(token.encode()), status=503)
            assert "128 node subnets" in found["detail"]
    finally:
        await plane.stop()


async def test_strangers_cannot_fill_the_audit_log(plane, stranger):
    for _ in range(70):
        body = {"token": "x", "csr": "x", "name": "w", "version": "1.0.0", "publicKey": KEY}
        await stranger.ask("POST", "/v1alpha1/join", 401, json=body)
    assert len(await audited(plane)) == 60


async def test_renewal_signs_for_the_node_itself_only(plane, caller_of):
    await plane.add_node("w1", WORKER, "10.100.2.0/23")
    async with caller_of(plane.node_tls("w1")) as node:
        key = certificates.make_key()
        csr = certificates.make_csr(key, NodeName(CLUSTER_ID, "w1", WORKER)).decode()
        made = await node.post("/nodes/w1/renew", {"csr": csr})
        signed = x509.load_pem_x509_certificate(made["certificate"].encode())
        assert certificates.identity_of(signed) == NodeName(CLUSTER_ID, "w1", WORKER)
        assert await plane.store.get(keys.certificate("w1", signed.serial_number)) is not None
        raised = certificates.make_csr(key, NodeName(CLUSTER_ID, "w1", CONTROL)).decode()
        assert "asks for" in (await node.post("/nodes/w1/renew", {"csr": raised}, status=422))["detail"]
        other = certificates.make_csr(key, NodeName(CLUSTER_ID, "n1", CONTROL)).decode()
        assert "asks for" in (await node.post("/nodes/w1/renew", {"csr": other}, status=422))["detail"]
        await plane.store.delete(keys.node("w1"))
        await node.post("/nodes/w1/renew", {"csr": csr}, status=404)
