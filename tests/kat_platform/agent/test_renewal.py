"""Renewal: at two thirds of a certificate's life, key and certificate together, into contexts that are in use."""

from __future__ import annotations

import asyncio
import socket
import ssl
import threading
from contextlib import suppress
from datetime import UTC, datetime, timedelta

import pytest

from kat_platform.agent.identity import NEXT_CERTIFICATE, NEXT_KEY, OwnTls, finish_replacing
from kat_platform.agent.local import Places
from kat_platform.agent.renewal import Renewal
from kat_platform.errors import InvalidInput, Unavailable
from kat_platform.model.identity import NodeName
from kat_platform.model.node import NodeRole
from kat_platform.pki import certificates
from kat_platform.pki.authority import Authority
from kat_platform.pki.files import private_folder, write_whole

START = datetime(2030, 1, 1, tzinfo=UTC)
NAME = NodeName("kt-cluster", "w1", NodeRole.CONTROL_PLANE)


class Scene:
    """A node with a certificate made at START, an API that signs, and a clock that only sleeping moves."""

    def __init__(self, folder):
        self.places = Places(folder)
        self.now = START
        self.slept = []
        self.failures = 0
        self.signed = []
        self.authority = Authority.create("kt-cluster", now=START)
        private_folder(self.places.pki)
        self.authority.save(self.places.pki)
        key = certificates.make_key()
        made = self.authority.issue_node(key.public_key(), NAME, domain="d", now=START)
        write_whole(self.places.key, certificates.key_pem(key))
        write_whole(self.places.certificate, certificates.certificate_pem(made))
        self.own = OwnTls(self.places)
        self.renewal = Renewal(NAME, self.own, self.sign, now=lambda: self.now, sleep=self.sleep)

    async def sleep(self, seconds):
        self.slept.append(seconds)
        self.now += timedelta(seconds=seconds)
        await asyncio.sleep(0)

    async def sign(self, csr):
        if self.failures:
            self.failures -= 1
            raise Unavailable("no")
        made = self.authority.sign_csr(csr.encode(), NAME, domain="d", now=self.now)
        self.signed.append((self.now, made))
        return certificates.certificate_pem(made).decode()

    async def run_until(self, done):
        task = asyncio.create_task(self.renewal.run())
        try:
            async with asyncio.timeout(20):
                while not done():  # noqa: ASYNC110 - the clock is not real, and each turn is one step of it
                    await asyncio.sleep(0)
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task


@pytest.fixture
def scene(tmp_path):
    return Scene(tmp_path)


async def test_at_two_thirds_again_and_again(scene):
    await scene.run_until(lambda: len(scene.signed) == 3)
    times = [at for at, _ in scene.signed]
    for before, after in zip([START, *times], times, strict=False):
        assert timedelta(days=59, hours=23) < after - before < timedelta(days=60, hours=2)
    assert max(scene.slept) <= 3600, "a clock that is set, or a machine that slept, is noticed within the hour"
    assert len({made.public_key().public_numbers() for _, made in scene.signed}) == 3, "each time with a key of its own"


async def test_an_old_certificate_is_renewed_at_once(scene):
    scene.now = START + timedelta(days=70)
    await scene.run_until(lambda: scene.signed)
    assert scene.signed[0][0] == START + timedelta(days=70)


async def test_trouble_is_tried_again_more_and_more_seldom(scene):
    scene.now, scene.failures = START + timedelta(days=61), 12
    await scene.run_until(lambda: scene.signed)
    assert scene.slept[:3] == [30.0, 60.0, 120.0]
    assert max(scene.slept) == 3600.0
    assert scene.signed[0][0] < START + timedelta(days=62)


async def test_another_ones_certificate_is_not_taken(scene):
    key = certificates.make_key()
    stranger = scene.authority.issue_node(key.public_key(), NAME, domain="d", now=START)

    async def wrong(_csr):
        return certificates.certificate_pem(stranger).decode()

    before = scene.places.certificate.read_bytes(), scene.places.key.read_bytes()
    with pytest.raises(InvalidInput):
        await Renewal(NAME, scene.own, wrong).renew()
    assert (scene.places.certificate.read_bytes(), scene.places.key.read_bytes()) == before


@pytest.mark.parametrize("crash_after", ["key", "certificate", "half"])
def test_a_crash_leaves_a_pair_that_fits(scene, crash_after):
    pki = scene.places.pki
    key = certificates.make_key()
    made = scene.authority.issue_node(key.public_key(), NAME, domain="d", now=START)
    write_whole(pki / NEXT_KEY, certificates.key_pem(key))
    if crash_after != "key":
        write_whole(pki / NEXT_CERTIFICATE, certificates.certificate_pem(made))
    if crash_after == "half":
        (pki / NEXT_KEY).replace(scene.places.key)
    own = OwnTls(scene.places)
    own.client()  # load_cert_chain refuses a key and a certificate that do not fit
    assert (own.certificate().serial_number == made.serial_number) is (crash_after != "key")
    assert sorted(p.name for p in pki.glob("*next*")) == []
    finish_replacing(scene.places)


async def test_contexts_in_use_carry_the_new_one_and_open_connections_go_on(tmp_path):
    scene = Scene(tmp_path)
    scene.authority = Authority.create("kt-cluster")  # of today: TLS looks at the real clock
    (scene.places.pki / "ca.pem").unlink()
    scene.authority.save(scene.places.pki)
    key = certificates.make_key()
    made = scene.authority.issue_node(key.public_key(), NAME, domain="d")
    own = OwnTls(scene.places)
    own.replace(certificates.key_pem(key), certificates.certificate_pem(made))
    server, client = own.server(require_client=True), own.client()
    first = handshake(server, client)
    assert first.seen == (made.serial_number, made.serial_number)
    fresh_key = certificates.make_key()
    fresh = scene.authority.issue_node(fresh_key.public_key(), NAME, domain="d")
    own.replace(certificates.key_pem(fresh_key), certificates.certificate_pem(fresh))
    first.client.sendall(b"still here")
    assert first.server.recv(100) == b"still here"
    second = handshake(server, client)
    assert second.seen == (fresh.serial_number, fresh.serial_number)
    first.close()
    second.close()


class Pair:
    """Both ends of a TLS connection, and which serial number each saw."""

    def __init__(self, server, client):
        self.server, self.client = server, client
        ends = (server.getpeercert(binary_form=True), client.getpeercert(binary_form=True))
        self.seen = tuple(certificates.x509.load_der_x509_certificate(end).serial_number for end in ends)

    def close(self):
        self.server.close()
        self.client.close()


def handshake(server: ssl.SSLContext, client: ssl.SSLContext) -> Pair:
    left, right = socket.socketpair()
    made = []
    thread = threading.Thread(target=lambda: made.append(server.wrap_socket(left, server_side=True)))
    thread.start()
    ours = client.wrap_socket(right, server_hostname="kat-api")
    thread.join()
    return Pair(made[0], ours)
