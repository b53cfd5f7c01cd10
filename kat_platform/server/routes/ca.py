"""Routes of the cluster's CA: how it stands, changing it, and new certificates for people under the one that signs."""

from __future__ import annotations

import base64
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from aiohttp import web
from cryptography import x509
from pydantic import Field

from kat_platform.errors import Conflict, Denied, NotFound
from kat_platform.interfaces.auth import Role, Verb
from kat_platform.interfaces.store import Compare, Put
from kat_platform.leader.trust import waiting
from kat_platform.model.base import Model
from kat_platform.model.event import Event
from kat_platform.model.identity import EVERYWHERE, UserName
from kat_platform.model.node import NodeRole
from kat_platform.model.trust import CaStatus, RotationPhase, TrustRecord
from kat_platform.pki import certificates
from kat_platform.pki.authority import Authority
from kat_platform.pki.sealing import seal
from kat_platform.pki.trust import described
from kat_platform.server.access import credentials_of
from kat_platform.server.api import Api
from kat_platform.server.requests import answer_json, read_json
from kat_platform.server.routes.join import authority_of, trusted_pem
from kat_platform.server.table import PREFIX, Route
from kat_platform.state import keys
from kat_platform.state.cluster import ClusterState

_PATH: Final = f"{PREFIX}/ca/rotation"
_MOST: Final = 1000


class RotateBody(Model):
    """What a change of the CA takes."""

    leave_behind: tuple[str, ...] = Field(default=(), max_length=_MOST)
    """Workers that are away, not to be waited for: they have to be reset and joined anew."""


class UserCertificateBody(Model):
    """What a person's new certificate takes: a signing request (PEM) for the very identity that sends it."""

    csr: str = Field(max_length=certificates.CSR_LIMIT)


async def show(_: web.Request, api: Api) -> web.StreamResponse:
    """Tell which CAs are trusted, how far a change of them has come, and which nodes it waits for."""
    return answer_json(_status(api))


def _status(api: Api) -> dict[str, Any]:
    record = api.state.trust or _first(authority_of(api))
    status = CaStatus(
        phase=record.phase,
        authorities=record.authorities,
        signer=record.signer,
        finish_wanted=record.finish_wanted,
        left_behind=record.left_behind,
        started_at=record.started_at,
        started_by=record.started_by,
        waiting=waiting(api.state),
    )
    return status.to_wire()


def _first(authority: Authority) -> TrustRecord:
    """Give the record that a cluster stands for which has never changed its CA."""
    return TrustRecord(authorities=(described(authority.certificate),), signer=authority.fingerprint)


async def rotate(request: web.Request, api: Api) -> web.StreamResponse:
    """Begin a change of the CA, or go on with the one that is going on; names of nodes to leave behind are added."""
    body = await read_json(request, RotateBody)
    refuse_leaving(api.state, body.leave_behind)
    found = await api.repository.read(keys.TRUST, TrustRecord)
    own = authority_of(api)
    before = found.value if found is not None else _first(own)
    who = api.caller(request).name
    if before.phase is RotationPhase.SETTLED:
        after = begun(before, own, by=who, now=api.now())
        text = f"{who} begins to change the CA: every node is to trust {after.newest[:16]} too"
        event = Event(reason="CaSpreading", object_kind="Cluster", object_name="ca", message=text, source="api")
    else:
        after, event = before, None
    left = tuple(dict.fromkeys((*after.left_behind, *body.leave_behind)))
    await _write(
        api, found.revision if found is not None else 0, before, after.model_copy(update={"left_behind": left})
    )
    if event is not None:
        api.events.note(event)
    return answer_json(_status(api), status=202)


def begun(record: TrustRecord, own: Authority, *, by: str, now: float) -> TrustRecord:
    """Give the record of a change that begins: a new CA beside the present one, its key sealed with that one's."""
    fresh = Authority.create(own.cluster_id, now=datetime.fromtimestamp(now, UTC))
    return TrustRecord(
        phase=RotationPhase.SPREADING,
        authorities=(*record.authorities, described(fresh.certificate)),
        signer=record.signer,
        link=certificates.certificate_pem(own.link(fresh.certificate)).decode(),
        sealed_key=base64.b64encode(seal(fresh, own)).decode(),
        former=record.former,
        started_at=now,
        started_by=by,
    )


def refuse_leaving(state: ClusterState, names: tuple[str, ...]) -> None:
    """Raise unless each of these nodes may be left behind by a change of the CA. Pure."""
    for name in names:
        node = state.nodes.get(name)
        if node is None:
            raise NotFound(f"there is no node '{name[:80]}'", hint="katcall node ls lists them")
        if name in state.alive:
            raise Conflict(f"node '{name}' is not away: it does its part by itself", hint="katcall ca status")
        if node.role is NodeRole.CONTROL_PLANE:
            raise Conflict(
                f"node '{name}' is a member of the control plane, which has to be whole",
                hint=f"bring it back, or 'katcall node remove {name} --force' if it is gone for good",
            )


async def finish(_: web.Request, api: Api) -> web.StreamResponse:
    """Have the former CA dropped as soon as every node has a certificate of the new one."""
    found = await api.repository.read(keys.TRUST, TrustRecord)
    if found is None or found.value.phase is RotationPhase.SETTLED:
        raise Conflict("the CA is not being changed, so there is nothing to finish", hint="katcall ca rotate begins it")
    await _write(api, found.revision, found.value, found.value.model_copy(update={"finish_wanted": True}))
    return answer_json(_status(api), status=202)


async def _write(api: Api, revision: int, before: TrustRecord, after: TrustRecord) -> None:
    if after == before:
        return
    compare = Compare.unchanged(keys.TRUST, revision)
    await api.caught_up(await api.repository.commit([compare], [Put(keys.TRUST, after.to_json())], "the CA"))


async def renew_user(request: web.Request, api: Api) -> web.StreamResponse:
    """Sign a new certificate for the person or program that asks, by the certificate it has.

    It ends when the present one does: nobody's access lasts longer by it. An administrator, who could make tokens as
    well, gets the usual time.
    """
    body = await read_json(request, UserCertificateBody)
    given = credentials_of(request)
    if given.certificate is None or given.bearer is not None:
        raise Denied("only who calls with a certificate gets a new one", hint="a bearer token goes on as it is")
    present = x509.load_der_x509_certificate(given.certificate)
    user = certificates.identity_of(present)
    if not isinstance(user, UserName):
        raise Denied("nodes renew their certificates at nodes/NAME/renew")
    validity = present.not_valid_after_utc - datetime.fromtimestamp(api.now(), UTC)
    if user.bindings.get(EVERYWHERE) == Role.ADMIN.value:
        validity = certificates.VALIDITY
    key = certificates.check_csr(body.csr.encode(), user)
    signed = authority_of(api).issue_user(key, user, validity=max(validity, timedelta(seconds=1)))
    return answer_json({"certificate": certificates.certificate_pem(signed).decode(), "trusted": trusted_pem(api)})


ROUTES = (
    Route("GET", _PATH, show, "The CAs that are trusted, and how far a change has come.", "ca", answer="CaStatus"),
    Route(
        "POST",
        _PATH,
        rotate,
        "Begin a change of the CA, or go on with it.",
        "ca",
        Verb.WRITE,
        answer="CaStatus",
        body="RotateBody",
        status=202,
    ),
    Route(
        "POST",
        f"{_PATH}/finish",
        finish,
        "Drop the former CA once every node has a certificate of the new one.",
        "ca",
        Verb.WRITE,
        answer="CaStatus",
        status=202,
    ),
    Route(
        "POST",
        f"{PREFIX}/certificate",
        renew_user,
        "Sign a new certificate for the caller, who has one.",
        "certificate",
        Verb.WRITE,
        answer="UserCertificate",
        body="UserCertificateBody",
        any_caller=True,
    ),
)
