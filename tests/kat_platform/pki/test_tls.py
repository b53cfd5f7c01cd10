"""Real handshakes on loopback: who is let in, who is not, and a renewal between two connections."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from kat_platform.errors import InvalidInput, Unauthenticated
from kat_platform.model.identity import NodeName, UserName
from kat_platform.model.node import NodeRole
from kat_platform.pki import tls
from kat_platform.pki.authority import Authority
from kat_platform.pki.certificates import API_SERVER_NAME, certificate_pem, key_pem, make_key
from kat_platform.pki.files import write_whole

LEADER = NodeName("home", "n1", NodeRole.CONTROL_PLANE)
WORKER = NodeName("home", "n2", NodeRole.WORKER)


def _keep(folder: Path, authority: Authority, who: NodeName | UserName) -> tuple[Path, Path]:
    key = make_key()
    if isinstance(who, NodeName):
        made = authority.issue_node(key.public_key(), who, domain="kat.cluster.local")
    else:
        made = authority.issue_user(key.public_key(), who)
    paths = folder / f"{who.name}.pem", folder / f"{who.name}.key"
    write_whole(paths[0], certificate_pem(made))
    write_whole(paths[1], key_pem(key))
    return paths


@asynccontextmanager
async def _server(context: ssl.SSLContext) -> AsyncIterator[int]:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        peer = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
        writer.write(b"known" if peer else b"anonymous")
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0, ssl=context)
    async with server:
        yield server.sockets[0].getsockname()[1]


async def _call(port: int, context: ssl.SSLContext, name: str = API_SERVER_NAME) -> tuple[bytes, bytes]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context, server_hostname=name)
    certificate = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
    try:
        async with asyncio.timeout(5):
            return await reader.read(), certificate
    finally:
        writer.close()


async def _refused(port: int, context: ssl.SSLContext) -> bool:
    """Tell whether the server dropped us. With TLS 1.3 a client learns it only from its first read."""
    try:
        answer, _ = await _call(port, context)
    except (ssl.SSLError, ConnectionError):
        return True
    return answer == b""


async def test_client_certificate_is_optional_and_checked(tmp_path: Path, authority: Authority) -> None:
    server = tls.server_context(authority.pem(), *_keep(tmp_path, authority, LEADER))
    async with _server(server) as port:
        assert (await _call(port, tls.client_context(authority.pem())))[0] == b"anonymous"
        mine = _keep(tmp_path, authority, UserName("home", "ada", {"*": "admin"}))
        assert (await _call(port, tls.client_context(authority.pem(), *mine)))[0] == b"known"
        other = Authority.create("home")
        forged = _keep(tmp_path, other, UserName("home", "eve", {"*": "admin"}))
        assert await _refused(port, tls.client_context(authority.pem(), *forged))


async def test_client_certificate_can_be_required(tmp_path: Path, authority: Authority) -> None:
    server = tls.server_context(authority.pem(), *_keep(tmp_path, authority, LEADER), require_client=True)
    async with _server(server) as port:
        assert await _refused(port, tls.client_context(authority.pem()))


async def test_client_refuses_a_worker_and_another_ca(tmp_path: Path, authority: Authority) -> None:
    async with _server(tls.server_context(authority.pem(), *_keep(tmp_path, authority, WORKER))) as port:
        with pytest.raises(ssl.SSLCertVerificationError):
            await _call(port, tls.client_context(authority.pem()))
        assert await _call(port, tls.client_context(authority.pem()), "n2.node.kat.cluster.local")
        with pytest.raises(ssl.SSLCertVerificationError):
            await _call(port, tls.client_context(Authority.create("home").pem()), "n2")


async def test_renewed_certificate_is_taken_in_place(tmp_path: Path, authority: Authority) -> None:
    context = tls.server_context(authority.pem(), *_keep(tmp_path, authority, LEADER))
    client = tls.client_context(authority.pem())
    async with _server(context) as port:
        _, before = await _call(port, client)
        tls.reload(context, *_keep(tmp_path, authority, LEADER))
        _, after = await _call(port, client)
    assert before != after


async def test_both_authorities_are_trusted_during_a_change(tmp_path: Path, authority: Authority) -> None:
    fresh = Authority.create("home")
    client = tls.client_context(authority.pem())
    tls.trust_also(client, fresh.pem())
    async with _server(tls.server_context(fresh.pem(), *_keep(tmp_path, fresh, LEADER))) as port:
        assert (await _call(port, client))[0] == b"anonymous"


def test_strict_verification_accepts_our_certificates(tmp_path: Path, authority: Authority) -> None:
    """Python 3.13 verifies strictly (RFC 5280) by default: our certificates must stand that everywhere."""
    context = tls.client_context(authority.pem())
    context.verify_flags |= ssl.VERIFY_X509_STRICT
    server = tls.server_context(authority.pem(), *_keep(tmp_path, authority, LEADER))

    async def run() -> None:
        async with _server(server) as port:
            await _call(port, context)

    asyncio.run(run())


def test_trust_ca(authority: Authority) -> None:
    assert tls.trust_ca(authority.pem(), authority.fingerprint) == authority.pem()
    with pytest.raises(Unauthenticated, match="another cluster"):
        tls.trust_ca(Authority.create("home").pem(), authority.fingerprint)
    with pytest.raises(InvalidInput):
        tls.client_context(b"nonsense")
