"""Join: ``kat-agent join``. Makes this machine a node of a cluster, or leaves it as it was.

The machine trusts nothing but the CA that its token names, and its private keys never leave it.
"""

from __future__ import annotations

import asyncio
import json
import ssl
import time
from collections.abc import Mapping
from typing import Any, Final

import aiohttp
import structlog
from cryptography.hazmat.primitives.asymmetric import ec

from kat_platform import __version__
from kat_platform.agent import facts
from kat_platform.agent.bootstrap import check_host, new_tag, refuse_failed, refuse_initialised, undone_on_error
from kat_platform.agent.daemon import plugins_for
from kat_platform.agent.journal import Journal
from kat_platform.agent.local import LocalNode, Membership, Places, save_node
from kat_platform.cli.client import error_of
from kat_platform.errors import InvalidInput, KatError, Unauthenticated, Unavailable, UsageError
from kat_platform.model.cluster import ClusterConfiguration
from kat_platform.model.identity import NodeName
from kat_platform.model.scalars import check_name
from kat_platform.model.view import ClusterItem, NodeItem
from kat_platform.pki import certificates
from kat_platform.pki.authority import CERTIFICATE_FILE
from kat_platform.pki.files import PUBLIC, private_folder, read_private, write_whole
from kat_platform.pki.tls import client_context, trust_ca, unverified_context
from kat_platform.pki.tokens import JoinToken
from kat_platform.pki.trust import Trust

log = structlog.get_logger(__name__)

DEFAULT_PORT: Final = 9115
ATTEMPTS: Final = 4
"""How often a request is sent whose answer did not come: the same machine is admitted once, however often it asks."""
TIMEOUT: Final = 15.0


def api_url(address: str) -> str:
    """Give the API's URL for ``HOST`` or ``HOST:PORT``; raises ``UsageError``."""
    host, colon, port = address.removeprefix("https://").rstrip("/").partition(":")
    number = int(port) if port.isdecimal() else DEFAULT_PORT
    if not host or "/" in host or (colon and not port.isdecimal()) or not 1 <= number <= 65535:
        raise UsageError(f"'{address}' is not the address of an API: write HOST or HOST:PORT")
    return f"https://{host}:{number}"


async def join(places: Places, address: str, token_text: str, name: str, labels: Mapping[str, str]) -> LocalNode:
    """Make this machine a node. On any error everything made so far is removed again.

    Raises ``Conflict`` when the machine is a node already, ``HostNotReady`` when it will not do, ``Unauthenticated``
    when token and cluster do not belong together; then nothing is changed, here or in the cluster.
    """
    refuse_initialised(places)
    check_name(name)
    token, url = JoinToken.decode(token_text), api_url(address)
    ca = trust_ca(await _fetch_ca(url), token.fingerprint)
    cluster = certificates.cluster_of(certificates.load_certificate(ca))
    who = {"token": token_text, "name": name, "role": token.role.value, "version": __version__}
    async with Door(url, client_context(ca)) as door:
        prepared = await door.post("join/prepare", who)
        configuration = ClusterConfiguration.from_peer(prepared["configuration"])
        refuse_failed(await check_host(configuration))
        tag = new_tag()
        with undone_on_error(places, tag):
            node = LocalNode(
                cluster_id=cluster,
                node_name=name,
                role=token.role,
                tag=tag,
                configuration=configuration,
                api_endpoints=(url,),
                created_at=time.time(),
                membership=Membership.ABSENT,
            )
            private_folder(places.data)
            private_folder(places.pki)
            key = _own_key(places)
            public_key = await plugins_for(node, places).drivers.network.public_key()
            body = {
                **who,
                "csr": certificates.make_csr(key, NodeName(cluster, name, token.role)).decode(),
                "publicKey": public_key,
                "addresses": list(facts.underlay_addresses(frozenset())),
                "listenPort": configuration.spec.wireguard_port,
                "labels": dict(labels),
            }
            answer = await door.post("join", body)
            return _keep(places, node, key, ca, answer)


def _own_key(places: Places) -> ec.EllipticCurvePrivateKey:
    """Give the node's key: the one of a join that was killed in the middle, so that it may go on, or a new one."""
    if places.key.exists():
        return certificates.load_key(read_private(places.key))
    key = certificates.make_key()
    write_whole(places.key, certificates.key_pem(key))
    return key


def _keep(
    places: Places, node: LocalNode, key: ec.EllipticCurvePrivateKey, ca: bytes, answer: dict[str, Any]
) -> LocalNode:
    """Write down what the cluster gave: certificate, peers and, last of all, the identity."""
    certificate = certificates.load_certificate(str(answer["certificate"]).encode())
    if certificate.public_key() != key.public_key():
        raise InvalidInput("the cluster signed another key than this machine's")
    cluster = ClusterItem.from_peer(answer["cluster"])
    peers = [NodeItem.from_peer(item) for item in answer["nodes"]]
    trusted = Trust.read(str(answer.get("trusted", "")).encode() or ca)  # said by whom the token's CA vouches for
    if not trusted.issuer(certificate):
        raise InvalidInput("the cluster gave a certificate of a CA that it does not trust itself")
    write_whole(places.pki / CERTIFICATE_FILE, trusted.pem(), mode=PUBLIC)
    write_whole(places.certificate, certificates.chain_pem(str(answer["certificate"]).encode()), mode=PUBLIC)
    view = {"cluster": cluster.to_wire(), **{f"node/{item.name}": item.to_wire() for item in peers}}
    Journal(places.journal).save_view(view)  # so that the overlay comes up before the API is asked
    endpoints = tuple(dict.fromkeys((*node.api_endpoints, *cluster.api_endpoints)))
    joined = node.model_copy(update={"configuration": cluster.configuration, "api_endpoints": endpoints})
    save_node(places, joined)
    return joined


class Door:
    """The API as a machine sees it that has no certificate yet."""

    def __init__(self, url: str, tls: ssl.SSLContext) -> None:
        self._url, self._tls = url, tls

    async def __aenter__(self) -> Door:
        timeout = aiohttp.ClientTimeout(total=TIMEOUT)
        self._session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=self._tls), timeout=timeout)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._session.close()

    async def post(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """Send a request, again if its answer does not come; raises the error that the API answered with."""
        pause = 0.5
        for attempt in range(ATTEMPTS):
            try:
                return await self._post(path, body)
            except Unavailable as error:
                if attempt == ATTEMPTS - 1:
                    raise
                log.info("no answer from the API", path=path, error=str(error), retry_in=pause)
                await asyncio.sleep(pause)
                pause *= 2
        raise AssertionError("unreachable")

    async def _post(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        url = f"{self._url}/v1alpha1/{path}"
        try:
            async with self._session.post(url, json=body, server_hostname=certificates.API_SERVER_NAME) as answer:
                found = json.loads(await answer.read())
        except aiohttp.ClientConnectorCertificateError as error:
            raise Unauthenticated(
                f"{self._url} is not a control-plane node of the token's cluster: {error.certificate_error}"
            ) from error
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
            raise _unreachable(self._url, error) from error
        if not isinstance(found, dict):
            raise Unavailable(f"{self._url} did not answer as a KAT server does")
        if answer.status >= 400:
            raise error_of(answer.status, found)
        return found


async def _fetch_ca(url: str) -> bytes:
    """Get the CA from whoever answers, two while the cluster changes it.

    They count for nothing until the token's fingerprint has confirmed one.
    """
    timeout = aiohttp.ClientTimeout(total=TIMEOUT)
    try:
        async with (
            aiohttp.ClientSession(timeout=timeout) as session,
            session.get(f"{url}/ca", ssl=unverified_context()) as answer,
        ):
            if answer.status != 200:
                raise Unavailable(f"{url} answered {answer.status} when asked for its CA: is this KAT's API?")
            found = json.loads(await answer.read())
            return str(found.get("trusted") or found["ca"]).encode()
    except (aiohttp.ClientError, TimeoutError, OSError, ValueError, KeyError, TypeError) as error:
        raise _unreachable(url, error) from error


def _unreachable(url: str, error: Exception) -> KatError:
    text = str(error) or type(error).__name__
    return Unavailable(f"the API at {url} does not answer: {text}", hint="is the address right, and is the port open?")
