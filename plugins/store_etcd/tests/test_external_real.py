"""An etcd run elsewhere, over TLS, with several endpoints of which not all answer; and peers that speak mTLS."""

from __future__ import annotations

import asyncio
import subprocess
from pathlib import Path

import pytest
from kat_store_etcd.driver import EtcdStore
from kat_store_etcd.process import EtcdProcess

from kat_platform.errors import Conflict, KatError
from kat_platform.testing.conformance.store import free_port

from .conftest import MakeStore, peer_url

pytestmark = pytest.mark.real
ROOT = "/kat/v1/kt/"


def openssl(*words: str, cwd: Path) -> None:
    subprocess.run(["openssl", *words], cwd=cwd, check=True, capture_output=True)


@pytest.fixture
def certificates(tmp_path: Path) -> Path:
    """Make a CA and one certificate for 127.0.0.1, good for servers and clients."""
    folder = tmp_path / "tls"
    folder.mkdir()
    curve = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2")
    openssl("req", "-x509", *curve, "-keyout", "ca.key", "-out", "ca.crt", "-subj", "/CN=kt", cwd=folder)
    openssl("req", *curve[:-2], "-keyout", "node.key", "-out", "node.csr", "-subj", "/CN=node", cwd=folder)
    (folder / "ext").write_text("subjectAltName=IP:127.0.0.1\nextendedKeyUsage=serverAuth,clientAuth\n")
    openssl(
        "x509", "-req", "-in", "node.csr", "-CA", "ca.crt", "-CAkey", "ca.key", "-CAcreateserial",
        "-out", "node.crt", "-days", "2", "-extfile", "ext", cwd=folder,
    )  # fmt: skip
    return folder


async def test_an_etcd_elsewhere_is_used_over_tls(make_store: MakeStore, certificates: Path, tmp_path: Path) -> None:
    client, peer = f"https://127.0.0.1:{free_port()}", peer_url()
    made = tmp_path / "elsewhere"
    made.mkdir(mode=0o700)
    files = {name: str(certificates / name) for name in ("ca.crt", "node.crt", "node.key")}
    process = await EtcdProcess.spawn(
        [
            "etcd", "--name=x", f"--data-dir={made}", f"--listen-client-urls={client}",
            f"--advertise-client-urls={client}", f"--listen-peer-urls={peer}", f"--initial-advertise-peer-urls={peer}",
            f"--initial-cluster=x={peer}", f"--cert-file={files['node.crt']}", f"--key-file={files['node.key']}",
            f"--trusted-ca-file={files['ca.crt']}", "--client-cert-auth=true", "--logger=zap",
        ],
        tmp_path, {"PATH": "/usr/bin"},
    )  # fmt: skip
    try:
        tls = {"ca_file": files["ca.crt"], "cert_file": files["node.crt"], "key_file": files["node.key"]}
        nobody = f"127.0.0.1:{free_port()}"
        store = make_store(endpoints=(nobody, client), start_timeout_seconds=10, **tls)
        await store.bootstrap("ignored", "http://ignored")
        await store.start()
        revision = await store.put(ROOT + "a", b"1")
        batches = store.watch(ROOT, from_revision=revision)
        assert (await asyncio.wait_for(anext(batches), 10)).changes[0].entry.value == b"1"
        await batches.aclose()
        with pytest.raises(Conflict, match="run elsewhere"):
            await store.remove_member("1")
        stranger = make_store(
            "kt-s", endpoints=(client,), ca_file=files["ca.crt"], start_timeout_seconds=1, retry_seconds=0
        )
        with pytest.raises(KatError):
            await stranger.start()
    finally:
        await process.stop()


async def test_members_know_each_other_by_certificate(make_store: MakeStore, certificates: Path) -> None:
    tls = {f"peer_{name}_file": str(certificates / file) for name, file in
           (("cert", "node.crt"), ("key", "node.key"), ("ca", "ca.crt"))}  # fmt: skip
    first, second = make_store("kt-a", **tls), make_store("kt-b", **tls)
    urls = [f"https://127.0.0.1:{free_port()}" for _ in range(2)]
    await first.bootstrap("kt-a", urls[0])
    await first.start()
    learner = await first.add_member("kt-b", urls[1])
    await second.join("kt-b", urls[1], (await first.store_status()).members)
    await second.start()
    await _promoted(first, learner.id)
    await second.put(ROOT + "a", b"1")
    entry = await first.get(ROOT + "a")
    assert entry is not None
    assert entry.value == b"1"


async def _promoted(store: EtcdStore, member: str) -> None:
    for _ in range(100):
        try:
            return await store.promote_member(member)
        except KatError as error:
            if not error.retryable:
                raise
            await asyncio.sleep(0.1)
    raise AssertionError("the learner never caught up")
