"""Reads an identity from a certificate that the TLS layer has already verified; pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from cryptography import x509

from kat_platform.errors import InvalidValue, Unauthenticated
from kat_platform.interfaces.auth import Identity, Role
from kat_platform.model.identity import EVERYWHERE, NodeName, UserName, parse_identity
from kat_platform.model.node import NodeRole


@dataclass(frozen=True, slots=True)
class Holder:
    """What matters of a certificate: who holds it, and what can end its validity. Times since the epoch, UTC."""

    identity: Identity
    serial: int
    valid_from: float
    valid_to: float


def read_certificate(der: bytes) -> Holder:
    """Read a certificate; raises ``Unauthenticated`` when it is none or names no identity of a cluster."""
    try:
        certificate = x509.load_der_x509_certificate(der)
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound as error:
        raise Unauthenticated("the client certificate names no KAT identity: it was not made for a client") from error
    except (ValueError, x509.DuplicateExtension, x509.UnsupportedGeneralNameType) as error:
        raise Unauthenticated("the client certificate is malformed") from error
    uris = names.get_values_for_type(x509.UniformResourceIdentifier)
    if len(uris) != 1:
        raise Unauthenticated(f"the client certificate must name exactly one identity (a kat:// URI), not {len(uris)}")
    try:
        found = parse_identity(uris[0])
    except InvalidValue as error:
        raise Unauthenticated(f"the client certificate names no KAT identity: {error.message}") from error
    return Holder(
        _identity(found),
        certificate.serial_number,
        certificate.not_valid_before_utc.timestamp(),
        certificate.not_valid_after_utc.timestamp(),
    )


def _identity(found: NodeName | UserName) -> Identity:
    if isinstance(found, NodeName):
        return Identity(
            name=f"node:{found.name}",
            bindings=MappingProxyType({EVERYWHERE: Role.NODE}),
            node=found.name,
            control_plane=found.role is NodeRole.CONTROL_PLANE,
            method="certificate",
        )
    bindings: Mapping[str, Role] = {space: Role(role) for space, role in found.bindings.items()}
    return Identity(name=found.name, bindings=MappingProxyType(dict(bindings)), method="certificate")
