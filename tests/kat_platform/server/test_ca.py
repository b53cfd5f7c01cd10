"""The CA through the API: who may change it, what is kept in the store, and which certificates are good meanwhile."""

from __future__ import annotations

import base64
from datetime import timedelta

import pytest

from kat_platform.leader.trust import advance
from kat_platform.model.identity import NodeName, UserName
from kat_platform.model.node import NodeRecord, NodeReport, NodeRole
from kat_platform.model.trust import NodeTrust, RotationPhase, TrustRecord
from kat_platform.pki import certificates
from kat_platform.pki.sealing import unseal
from kat_platform.pki.tls import client_context, trust_also
from kat_platform.pki.trust import Trust
from kat_platform.state import keys
from kat_platform.testing.control_plane import CLUSTER_ID

PATH = "/ca/rotation"


async def record_of(plane) -> TrustRecord:
    entry = await plane.store.get(keys.TRUST)
    return TrustRecord.from_json(entry.value)


async def write(plane, record: TrustRecord) -> None:
    await plane.store.put(keys.TRUST, record.to_json())
    await plane.settled()


async def signing(plane, admin) -> TrustRecord:
    """Begin a change, and go on to where the new CA signs."""
    await admin.post(PATH, status=202)
    record = await record_of(plane)
    fresh = unseal(base64.b64decode(record.sealed_key), record.authorities[1].certificate.encode(), plane.authority)
    plane.server.api.deps.keyring.add(fresh)
    trust_also(plane.server.api.deps.tls, fresh.pem())
    record = record.model_copy(update={"phase": RotationPhase.SIGNING, "signer": record.newest})
    await write(plane, record)
    return record


def context(plane, name, certificate, key, trusted):
    files = plane._save(name, certificate.encode(), certificates.key_pem(key))
    return client_context(trusted.encode(), *files)


async def test_it_is_begun_once_and_its_key_lies_in_the_store_only_sealed(plane, admin):
    before = await admin.get(PATH)
    assert (before["phase"], len(before["authorities"])) == ("Settled", 1)
    begun = await admin.post(PATH, status=202)
    assert begun["phase"] == "Spreading"
    assert begun["signer"] == plane.authority.fingerprint
    assert [each["node"] for each in begun["waiting"]] == ["n1"]
    record = await record_of(plane)
    fresh = unseal(base64.b64decode(record.sealed_key), record.authorities[1].certificate.encode(), plane.authority)
    assert fresh.fingerprint == record.newest
    everything = b"".join(entry.value for entry in (await plane.store.list(keys.ROOT)).entries)
    secret = certificates.key_pem(fresh.key)
    assert secret not in everything
    assert base64.b64encode(secret) not in everything
    assert b"PRIVATE" not in everything
    assert "sealedKey" not in begun
    await admin.post(PATH, status=202)
    assert await record_of(plane) == record, "asked again, it goes on with the same one"


async def test_it_is_for_administrators_only(plane, caller_of):
    await plane.add_node("w1", NodeRole.WORKER, "10.100.4.0/23")
    await plane.settled()
    for tls in (plane.user_tls("eve", "edit"), plane.node_tls("w1"), plane.node_tls("n1", NodeRole.CONTROL_PLANE)):
        async with caller_of(tls) as caller:
            await caller.get(PATH, status=403)
            await caller.post(PATH, status=403)
            await caller.post(f"{PATH}/finish", status=403)
    assert await plane.store.get(keys.TRUST) is None


async def test_the_finish_is_asked_for_while_it_is_going_on(plane, admin):
    found = await admin.post(f"{PATH}/finish", status=409)
    assert "not being changed" in found["detail"]
    await admin.post(PATH, status=202)
    assert (await admin.post(f"{PATH}/finish", status=202))["finishWanted"]


async def test_only_a_worker_that_is_away_is_left_behind(plane, admin):
    await plane.add_node("w1", NodeRole.WORKER, "10.100.4.0/23", alive=False)
    await plane.add_node("w2", NodeRole.WORKER, "10.100.6.0/23")
    await plane.add_node("n2", NodeRole.CONTROL_PLANE, "10.100.8.0/23", alive=False)
    await plane.settled()
    for name, status, words in (("w9", 404, "no node"), ("w2", 409, "not away"), ("n2", 409, "control plane")):
        found = await admin.post(PATH, {"leaveBehind": [name]}, status=status)
        assert words in found["detail"]
    assert await plane.store.get(keys.TRUST) is None
    await admin.post(PATH, status=202)
    found = await admin.post(PATH, {"leaveBehind": ["w1"]}, status=202)
    assert found["leftBehind"] == ["w1"]
    assert [each["node"] for each in found["waiting"]] == ["n1", "n2", "w2"]


async def test_nodes_are_told_whom_to_trust_and_who_is_revoked_but_never_a_key(plane, admin, caller_of):
    await plane.add_node("w1", NodeRole.WORKER, "10.100.4.0/23")
    await plane.settled()
    async with caller_of(plane.node_tls("w1")) as caller, caller.lines("/nodes/w1/view") as read:
        while "synced" not in (line := await read()):
            assert line["key"] != "trust"
        await admin.post(PATH, status=202)
        while (line := await read()).get("key") != "trust":
            pass
        record = await record_of(plane)
        assert line["body"] == {
            "authorities": [each.certificate for each in record.authorities],
            "signer": plane.authority.fingerprint,
            "storeTurn": "",
            "revoked": [],
        }
        await plane.store.put(keys.revoked(255), b'{"expiresAt": 1.0}')
        while (line := await read()).get("key") != "trust":
            pass
        assert line["body"]["revoked"] == ["0xff"]


async def test_a_node_renews_with_a_link_while_both_are_trusted(plane, admin, caller_of):
    record = await signing(plane, admin)
    key = certificates.make_key()
    csr = certificates.make_csr(key, NodeName(CLUSTER_ID, "n1", NodeRole.CONTROL_PLANE)).decode()
    async with caller_of(plane.node_tls("n1", NodeRole.CONTROL_PLANE)) as caller:
        made = await caller.post("/nodes/n1/renew", {"csr": csr})
    assert made["certificate"].count("BEGIN CERTIFICATE") == 2
    leaf = certificates.load_certificate(made["certificate"].encode())
    both = Trust.read("".join(each.certificate for each in record.authorities).encode())
    assert both.issuer(leaf) == record.newest


async def test_a_person_gets_a_certificate_of_the_new_ca_and_the_former_ends_with_the_finish(plane, admin, caller_of):
    mine, old = UserName(CLUSTER_ID, "eve", {"shop": "edit"}), plane.user_tls("eve", "edit", "shop")
    record = await signing(plane, admin)
    key = certificates.make_key()
    async with caller_of(old) as caller:
        await caller.post(
            "/certificate", {"csr": certificates.make_csr(key, UserName(CLUSTER_ID, "adm", {})).decode()}, 422
        )
        made = await caller.post("/certificate", {"csr": certificates.make_csr(key, mine).decode()})
    fresh = certificates.load_certificate(made["certificate"].encode())
    assert certificates.identity_of(fresh) == mine
    only = record.model_copy(
        update={"phase": RotationPhase.FINISHING, "authorities": record.authorities[1:], "sealed_key": ""}
    )
    await write(plane, only)
    async with caller_of(old) as caller:
        found = await caller.get("/namespaces/shop/workloads", status=401)
        assert "former CA" in found["detail"]
        assert "kat-agent context" in found["hint"]
    present = context(plane, "eve-new", made["certificate"], key, made["trusted"])
    async with caller_of(present) as caller:
        await caller.get("/namespaces/shop/workloads")


@pytest.mark.parametrize(("role", "longer"), [("edit", False), ("admin", True)])
async def test_nobodys_access_lasts_longer_but_an_administrators(plane, caller_of, role, longer):
    user, key = UserName(CLUSTER_ID, "eve", {"*": role}), certificates.make_key()
    short = plane.authority.issue_user(key.public_key(), user, validity=timedelta(hours=1))
    tls = context(plane, "eve", certificates.certificate_pem(short).decode(), key, plane.authority.pem().decode())
    async with caller_of(tls) as caller:
        made = await caller.post("/certificate", {"csr": certificates.make_csr(certificates.make_key(), user).decode()})
    ends = certificates.load_certificate(made["certificate"].encode()).not_valid_after_utc
    assert (ends - short.not_valid_after_utc > timedelta(days=80)) is longer
    assert longer or abs(ends - short.not_valid_after_utc) < timedelta(seconds=5)


async def test_a_token_or_a_node_gets_no_persons_certificate(plane, admin, caller_of):
    text = (await admin.post("/tokens", {"name": "ci", "role": "admin"}, status=201))["token"]
    csr = certificates.make_csr(certificates.make_key(), UserName(CLUSTER_ID, "ci", {"*": "admin"})).decode()
    async with caller_of(plane.anonymous_tls(), text) as caller:
        await caller.post("/certificate", {"csr": csr}, status=403)
    async with caller_of(plane.node_tls("n1", NodeRole.CONTROL_PLANE)) as caller:
        await caller.post("/certificate", {"csr": csr}, status=403)


async def test_a_join_token_of_the_former_ca_is_good_until_the_finish(plane, admin, caller_of):
    made = await admin.post("/join-tokens", {"role": "worker", "ttlSeconds": 60}, status=201)
    body = {"token": made["token"], "name": "w7", "role": "worker", "version": "1.0.0"}
    record = await signing(plane, admin)
    async with caller_of(plane.anonymous_tls()) as stranger:
        found = (await stranger.ask("GET", "/ca", 200))[1]
        assert Trust.read(found["trusted"].encode()).fingerprints == tuple(e.fingerprint for e in record.authorities)
        await stranger.post("/join/prepare", body)
        plane_node = NodeReport(trust=NodeTrust(issuer=record.newest))
        await plane.store.put(keys.node_report("n1"), plane_node.to_json())
        await admin.post(f"{PATH}/finish", status=202)
        await plane.settled()
        finishing = advance(plane.cache.state)
        assert finishing is not None
        assert finishing.phase is RotationPhase.FINISHING
        await write(plane, finishing)
        found = await stranger.post("/join/prepare", body, status=401)
    assert "former CA" in found["detail"]


async def test_a_new_member_is_handed_both_keys(plane, admin, caller_of):
    await plane.store.bootstrap("n1", "https://10.100.0.1:2380")
    await plane.store.put(
        keys.node("n2"),
        NodeRecord(name="n2", role=NodeRole.CONTROL_PLANE, subnet="10.100.2.0/23", public_key="k").to_json(),
    )
    await signing(plane, admin)
    async with caller_of(plane.node_tls("n2", NodeRole.CONTROL_PLANE)) as caller:
        made = await caller.post("/nodes/n2/membership")
    assert made["caKey"].count("BEGIN PRIVATE KEY") == 2
