"""Routes by which machines join: tokens (administrators), the CA and joining itself (whoever has a token)."""

from __future__ import annotations

import re
from collections.abc import Iterable
from hashlib import sha256
from ipaddress import IPv4Address
from typing import Any, Final

import structlog
from aiohttp import web
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from pydantic import Field

import kat_platform
from kat_platform.errors import Conflict, InvalidValue, NotFound, Unauthenticated, Unavailable
from kat_platform.interfaces.auth import Verb
from kat_platform.interfaces.store import Compare, Delete, Put
from kat_platform.model.base import Model
from kat_platform.model.cluster import ClusterConfigurationSpec
from kat_platform.model.event import Event
from kat_platform.model.identity import NodeName
from kat_platform.model.node import NodeRecord, NodeRole
from kat_platform.model.trust import RotationPhase
from kat_platform.pki import certificates
from kat_platform.pki.authority import Authority
from kat_platform.pki.tokens import JoinToken, JoinTokenRecord, make_join_token, redeem
from kat_platform.pki.trust import trust_of
from kat_platform.server import joining, node_view
from kat_platform.server.api import Api
from kat_platform.server.guard import STRANGER
from kat_platform.server.joining import Admission, Applicant, Claim, Claimed, Members, note_certificate
from kat_platform.server.requests import answer_json, read_json
from kat_platform.server.table import PREFIX, Route
from kat_platform.state import keys

log = structlog.get_logger(__name__)

MAX_TTL: Final = 7 * 24 * 3600
MAX_USES: Final = 1000
MAX_TOKENS: Final = 500
_PATH: Final = f"{PREFIX}/join-tokens"
_ID: Final = re.compile(r"[0-9a-f]{12}")
_TRIES: Final = 8


class JoinTokenBody(Model):
    """What making a join token takes."""

    role: NodeRole = NodeRole.WORKER
    ttl_seconds: float = Field(default=3600.0, ge=1, le=MAX_TTL)
    uses: int = Field(default=1, ge=1, le=MAX_USES)


class PrepareBody(Model):
    """What a machine sends to learn whether it may join, before it makes anything."""

    token: str = Field(max_length=1000)
    name: str
    role: NodeRole = NodeRole.WORKER
    version: str


class JoinBody(PrepareBody):
    """What a machine sends to join. ``csr`` asks for the certificate of exactly this name and role, in PEM."""

    csr: str = Field(max_length=certificates.CSR_LIMIT)
    public_key: str
    addresses: tuple[str, ...] = ()
    listen_port: int = 51820
    labels: dict[str, str] = Field(default_factory=dict)

    def applicant(self) -> Applicant:
        """Give what the decision is made on."""
        return Applicant(
            self.name, self.role, self.public_key, self.addresses, self.listen_port, self.version, self.labels
        )


def authority_of(api: Api) -> Authority:
    """Give the CA that signs; raises ``Unavailable`` on a server without its key."""
    record, ring = api.state.trust, api.deps.keyring
    found = ring.get(record.signer if record is not None else "") if ring is not None else None
    if found is None:
        raise Unavailable("this node does not have the CA's key", hint="ask another control-plane node")
    return found


def chain_of(api: Api, certificate: x509.Certificate) -> str:
    """Give a node's certificate as PEM; while the CA changes with what lets those accept it who know the former CA."""
    record = api.state.trust
    link = record.link if record is not None and record.phase is RotationPhase.SIGNING else ""
    return certificates.certificate_pem(certificate).decode() + link


def trusted_pem(api: Api) -> str:
    """Give the certificates of all CAs that are trusted, as PEM."""
    record = api.state.trust
    return authority_of(api).pem().decode() if record is None else trust_of(record.authorities).pem().decode()


async def create(request: web.Request, api: Api) -> web.StreamResponse:
    """Make a join token and show it, this one time."""
    body = await read_json(request, JoinTokenBody)
    now = api.now()
    found = _records(api, (await api.deps.store.list(keys.JOIN_TOKENS)).entries)
    stale = [Delete(keys.join_token(each.id)) for each in found if each.expires_at <= now]
    if len(found) - len(stale) >= MAX_TOKENS:
        raise Conflict(f"there are {MAX_TOKENS} join tokens already", hint="withdraw some: katcall token rm ID")
    token, record = make_join_token(
        authority_of(api).fingerprint, body.role, now=now, ttl=body.ttl_seconds, uses=body.uses
    )
    record = record.model_copy(update={"created_by": api.caller(request).name})
    key = keys.join_token(record.id)
    revision = await api.repository.commit(
        [Compare.absent(key)], [Put(key, record.to_json()), *stale[:64]], f"join token {record.id}"
    )
    configuration = api.state.configuration
    # This node first: it is one that answers, and a machine is told to join there.
    here, port = api.deps.node_name, configuration.spec.api_port if configuration is not None else 0
    servers = list(node_view.api_endpoints(api.state, port, first=here)) if port else []
    return answer_json({**_shown(record), "token": token.encode(), "servers": servers}, status=201, etag=revision)


async def find(_: web.Request, api: Api) -> web.StreamResponse:
    """List join tokens, without anything one could use."""
    page = await api.deps.store.list(keys.JOIN_TOKENS)
    found = sorted(_records(api, page.entries), key=lambda each: (each.created_at, each.id))
    former = api.state.trust.former if api.state.trust is not None else ()
    items = [{**_shown(each), "former": each.authority in former} for each in found]
    return answer_json({"revision": page.revision, "items": items})


async def delete(request: web.Request, api: Api) -> web.StreamResponse:
    """Withdraw a join token; nobody joins with it any more."""
    token_id = request.match_info["name"]
    removed = await api.deps.store.delete(keys.join_token(token_id)) if _ID.fullmatch(token_id) else 0
    if not removed:
        raise NotFound(f"there is no join token '{token_id[:40]}'", hint="katcall token ls lists them")
    return answer_json({"deleted": True})


async def authority(_: web.Request, api: Api) -> web.StreamResponse:
    """Give the CA's certificate. A join token names its fingerprint, so it need not be trusted on the way."""
    return answer_json({"ca": authority_of(api).pem().decode(), "trusted": trusted_pem(api)})


async def prepare(request: web.Request, api: Api) -> web.StreamResponse:
    """Tell the holder of a token whether the machine may join, and the configuration to check its host against."""
    body = await read_json(request, PrepareBody, peer=True)
    await _redeemed(request, api, body, None)
    joining.refuse_skew(kat_platform.__version__, body.version)
    if body.role is NodeRole.CONTROL_PLANE:
        joining.refuse_member(api.state.nodes, api.state.alive, body.name)
    configuration = await api.repository.configuration()
    if configuration is None:
        raise Unavailable("the cluster has no configuration yet")
    return answer_json(
        {
            "clusterId": authority_of(api).cluster_id,
            "version": kat_platform.__version__,
            "configuration": configuration.value.to_wire(),
        }
    )


async def join(request: web.Request, api: Api) -> web.StreamResponse:
    """Make a machine a node: its certificate, its subnet and its peers."""
    body = await read_json(request, JoinBody, peer=True)
    own = authority_of(api)
    configuration = await api.repository.configuration()
    if configuration is None:
        raise Unavailable("the cluster has no configuration yet")
    spec = configuration.value.spec
    addresses = body.addresses[: joining.MOST_ADDRESSES]
    for _ in range(_TRIES):
        key = _key_digest(body.csr)
        found, redeemed = await _redeemed(request, api, body, key)
        joining.refuse_skew(kat_platform.__version__, body.version)
        applicant = body.applicant()
        joining.check_applicant(applicant)
        name = NodeName(own.cluster_id, body.name, body.role)
        certificates.check_csr(body.csr.encode(), name)  # before anybody learns whether the name is taken
        admission = await _admit(api, applicant, spec, again=redeemed == found.value)
        own_addresses = [*addresses, *filter(None, [admission.record.overlay_address])]
        signed = own.sign_csr(
            body.csr.encode(), name, domain=spec.cluster_domain, addresses=map(IPv4Address, own_addresses)
        )
        noted = note_certificate(body.name, signed)
        token = [Put(found.key, redeemed.to_json())] if redeemed != found.value else []
        result = await api.repository.try_commit(
            [found.unchanged(), *admission.compares], [*token, *admission.operations, noted]
        )
        if result.succeeded:
            await api.caught_up(result.revision)
            await _tell(api, admission, body)
            return answer_json(_answer(api, signed, admission.record), status=201)
    raise Conflict("too many machines join at the same moment", hint="try again")


async def _redeemed(request: web.Request, api: Api, body: PrepareBody, key: str | None) -> tuple[Any, JoinTokenRecord]:
    """Check the token; gives its record as found, and as it is after this use.

    Without ``key`` (it is not known yet) a node that has used the token may ask again: it has to prove its key later.
    """
    request[STRANGER] = f"join token ? for node {body.name[:63]}"
    try:
        token = JoinToken.decode(body.token)
    except InvalidValue as error:
        raise Unauthenticated(error.message) from None
    request[STRANGER] = f"join token {token.id} for node {body.name[:63]}"
    found = await api.repository.read(keys.join_token(token.id), JoinTokenRecord)
    record = None if found is None else found.value
    fingerprint = _vouched(api, token)
    if key is None:
        key = "" if record is None else record.used_by.get(body.name, "")
    redeemed = redeem(record, token, fingerprint=fingerprint, now=api.now(), node=body.name, key=key)
    assert found is not None  # redeem() refuses a token without a record
    joining.refuse_role(body.role, token.role)
    return found, redeemed


def _vouched(api: Api, token: JoinToken) -> str:
    """Give the fingerprint that a token must carry: of the CA that signs, or of the other one that is trusted."""
    record = api.state.trust
    if record is not None and token.fingerprint in record.former:
        raise Unauthenticated(
            "the join token is for this cluster's former CA, which is not trusted any more",
            hint="make one with 'katcall token create'",
        )
    if record is not None and token.fingerprint in record.trusted:
        return token.fingerprint
    return authority_of(api).fingerprint


def _key_digest(csr: str) -> str:
    try:
        key = x509.load_pem_x509_csr(csr.encode()).public_key()
        return sha256(key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).hexdigest()
    except ValueError:
        return ""  # said properly when the request is checked; until then it is nobody's key


async def _admit(api: Api, applicant: Applicant, spec: ClusterConfigurationSpec, *, again: bool) -> Admission:
    members = await read_members(api)
    record = members.nodes.get(applicant.name)
    if again:
        if record is None:
            raise Unauthenticated("the join token has been used up", hint="make one with 'katcall token create'")
        return joining.admit_again(applicant, record)
    return joining.admit(applicant, members, spec, now=api.now())


async def read_members(api: Api) -> Members:
    """Read nodes and claims straight from the store."""
    nodes: dict[str, NodeRecord] = {}
    for entry in (await api.deps.store.list(keys.NODES)).entries:
        nodes[entry.key.removeprefix(keys.NODES)] = NodeRecord.from_json(entry.value)
    claims: dict[str, Claimed] = {}
    for prefix in (keys.SUBNETS, keys.PUBLIC_KEYS):
        for entry in (await api.deps.store.list(prefix)).entries:
            claims[entry.key] = Claimed(Claim.from_json(entry.value).node, entry.revision)
    return Members(nodes, claims)


async def _tell(api: Api, admission: Admission, body: JoinBody) -> None:
    if not admission.operations:
        return
    text = f"joined as {body.role.value} with subnet {admission.record.subnet}"
    api.events.note(Event(reason="NodeJoined", object_kind="Node", object_name=body.name, message=text, source="api"))


def _answer(api: Api, certificate: x509.Certificate, record: NodeRecord) -> dict[str, Any]:
    cluster = node_view.cluster_item(api.state)
    assert cluster is not None  # the configuration is there
    nodes = [item for name in sorted(api.state.nodes) if (item := node_view.node_item(api.state, name)) is not None]
    own = authority_of(api)
    return {
        "clusterId": own.cluster_id,
        "ca": own.pem().decode(),
        "trusted": trusted_pem(api),
        "certificate": chain_of(api, certificate),
        "node": record.to_wire(),
        "cluster": cluster.to_wire(),
        "nodes": [item.to_wire() for item in nodes],
    }


def _records(api: Api, entries: Iterable[Any]) -> list[JoinTokenRecord]:
    found = []
    for entry in entries:
        try:
            found.append(JoinTokenRecord.from_json(entry.value))
        except ValueError:
            log.error("unreadable-join-token", key=entry.key)
    return found


def _shown(record: JoinTokenRecord) -> dict[str, Any]:
    return {
        "kind": "JoinToken",
        "name": record.id,
        "id": record.id,
        "role": record.role.value,
        "createdAt": record.created_at,
        "createdBy": record.created_by,
        "expiresAt": record.expires_at,
        "usesLeft": record.uses_left,
        "usedBy": sorted(record.used_by),
    }


ROUTES = (
    Route(
        "POST",
        _PATH,
        create,
        "Make a join token; it is shown once.",
        "tokens/join",
        Verb.WRITE,
        answer="NewJoinToken",
        body="JoinTokenBody",
        status=201,
    ),
    Route("GET", _PATH, find, "List join tokens.", "tokens/join", answer="JoinTokenList"),
    Route(
        "DELETE", f"{_PATH}/{{name}}", delete, "Withdraw a join token.", "tokens/join", Verb.DELETE, answer="Deleted"
    ),
    Route("GET", "/ca", authority, "The CA's certificate.", answer="Ca", public=True),
    Route(
        "POST",
        f"{PREFIX}/join/prepare",
        prepare,
        "Whether a machine may join with its token, and the cluster's configuration.",
        "nodes/join",
        Verb.WRITE,
        answer="Prepared",
        body="PrepareBody",
        public=True,
    ),
    Route(
        "POST",
        f"{PREFIX}/join",
        join,
        "Make a machine a node, by its token.",
        "nodes/join",
        Verb.WRITE,
        answer="Joined",
        body="JoinBody",
        status=201,
        public=True,
    ),
)
