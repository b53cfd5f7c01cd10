"""katcall ca: the change is shown as it goes, the context in use comes through it, and what is waited for is named."""

from __future__ import annotations

import asyncio
import base64
import json
from contextlib import contextmanager

import pytest

from kat_platform.cli import context as kept
from kat_platform.cli.ca import reasons, signed, stage
from kat_platform.cli.client import Client
from kat_platform.errors import Conflict
from kat_platform.leader.trust import advance
from kat_platform.model.node import NodeReport, NodeRole
from kat_platform.model.trust import NodeTrust, RotationPhase
from kat_platform.pki.certificates import load_certificate
from kat_platform.pki.sealing import unseal
from kat_platform.pki.tls import trust_also
from kat_platform.pki.trust import Trust
from kat_platform.state import keys


async def act(plane):
    """Be the leader, and the one node, until cancelled."""
    while True:
        await asyncio.sleep(0.02)
        state = plane.cache.state
        record = state.trust
        if record is None or record.phase is RotationPhase.SETTLED:
            continue
        ring = plane.server.api.deps.keyring
        if record.sealed_key and record.newest not in ring.held:
            fresh = unseal(
                base64.b64decode(record.sealed_key), record.authorities[1].certificate.encode(), plane.authority
            )
            ring.add(fresh)
            trust_also(plane.server.api.deps.tls, fresh.pem())
        trusts = tuple(sorted(record.trusted))
        report = NodeReport(trust=NodeTrust(trusts=trusts, holds=ring.held, issuer=record.signer))
        await plane.store.put(keys.node_report("n1"), report.to_json())
        await plane.settled()
        moved = advance(plane.cache.state)
        if moved is not None:
            await plane.store.put(keys.TRUST, moved.to_json())
            await plane.settled()


@contextmanager
def acting(cluster):
    task = asyncio.run_coroutine_threadsafe(act(cluster.plane), cluster.loop)
    try:
        yield
    finally:
        task.cancel()


def test_the_change_is_shown_and_the_context_comes_through_it(cluster, katcall):
    before = kept.load()
    with acting(cluster):
        result = katcall("ca", "rotate", "--no-finish", "--timeout", "20s")
        assert "context 'test' too" in result.out or "too\n" in result.out
        assert "'katcall ca finish'" in result.out
        middle = kept.load()
        both = Trust.read(middle.ca.encode())
        assert len(both.authorities) == 2
        assert both.issuer(load_certificate(middle.certificate.encode())) == both.fingerprints[1]
        assert both.issuer(load_certificate(before.certificate.encode())) == both.fingerprints[0]
        assert middle.key != before.key
        found = json.loads(katcall("ca", "status", "-o", "json").out)
        assert (found["phase"], found["waiting"]) == ("Signing", [])
        assert "both are trusted" in katcall("ca", "status").out
        result = katcall("ca", "finish", "--timeout", "20s")
        assert "not trusted any more" in result.out
    after = kept.load()
    assert Trust.read(after.ca.encode()).fingerprints == both.fingerprints[1:]
    assert after.namespace == before.namespace
    assert "katcall" not in result.err or "Traceback" not in result.err


def test_somebody_elses_context_is_refreshed_while_both_are_trusted(cluster, katcall):
    other = kept.load()
    with acting(cluster):
        katcall("ca", "rotate", "--no-finish", "--timeout", "20s")
        kept.save(kept.Context("late", other.servers, other.ca, other.certificate, other.key))
        result = katcall("context", "refresh", "late")
    assert "has a new certificate" in result.out
    fresh = kept.load("late")
    trust = Trust.read(fresh.ca.encode())
    assert trust.issuer(load_certificate(fresh.certificate.encode())) == trust.fingerprints[1]
    Client(fresh).get("nodes")


def test_a_token_goes_on_as_it_is(cluster, katcall):
    text = json.loads(katcall("token", "create", "--user", "ci", "--role", "admin", "-o", "json").out)["token"]
    context = kept.load()
    kept.save(kept.Context("ci", context.servers, context.ca, token=text))
    assert "certificate" not in katcall("context", "refresh", "ci").out
    assert kept.load("ci").token == text


def test_what_takes_too_long_is_named_and_goes_on(cluster, katcall):
    cluster.run(cluster.plane.add_node("w1", NodeRole.WORKER, "10.100.2.0/23", alive=False))
    cluster.run(cluster.plane.settled())
    result = katcall("ca", "rotate", "--timeout", "1s", code=6)
    assert "w1: away; has not said which CAs it trusts" in result.err
    assert "--leave-behind w1" in result.err
    assert "katcall ca status" in result.err
    assert "Spreading" in katcall("ca", "status", "-o", "json").out
    assert "goes on" in katcall("ca", "rotate", "--no-wait").out or "katcall ca status" in result.err
    katcall("ca", "rotate", "--no-wait", "--leave-behind", "w1")
    assert "w1" not in katcall("ca", "status").out


def status(phase, *waiting, **more):
    return {"phase": phase, "waiting": [{"node": name, "reason": "r", "away": away} for name, away in waiting], **more}


def test_every_phase_has_its_words():
    phases = ["Spreading", "Signing", "Finishing"]
    texts = {stage(status(phase, *nodes)) for phase in phases for nodes in ((), (("n1", False),))}
    assert len(texts) == 6
    assert stage(status("Settled")) not in texts
    many = status("Signing", *((f"n{number}", False) for number in range(9)))
    assert reasons(many)[-1] == "  and 4 more"
    assert "away; r" in reasons(status("Signing", ("n1", True)))[0]


def test_nothing_to_wait_for_is_said_so():
    with pytest.raises(Conflict, match="not being changed"):
        signed(status("Settled"))
    assert not signed(status("Signing", ("n1", False)))
    assert signed(status("Signing"))
