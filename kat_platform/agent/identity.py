"""Identity: the node's key and certificate on disk, the TLS contexts that carry them, and changing both in place."""

from __future__ import annotations

import ssl
from collections.abc import Callable
from dataclasses import replace
from typing import Final

import structlog
from cryptography import x509

from kat_platform.agent.local import Places
from kat_platform.errors import InvalidInput
from kat_platform.pki import tls
from kat_platform.pki.authority import CERTIFICATE_FILE
from kat_platform.pki.certificates import certificate_pem, load_certificate
from kat_platform.pki.files import PUBLIC, read_public, write_whole
from kat_platform.pki.trust import Trust, checked

log = structlog.get_logger(__name__)

NEXT_KEY: Final = "node.next.key"
NEXT_CERTIFICATE: Final = "node.next.pem"


class OwnTls:
    """Makes TLS contexts with the node's certificate, and gives all of them a renewed one while they are in use.

    ``trust`` says whose certificates are accepted. Contexts of clients refuse others at the handshake; whoever serves
    has to ask :meth:`refusal` at each request.
    """

    def __init__(self, places: Places) -> None:
        self._places = places
        finish_replacing(places)
        self.trust = Trust.read(read_public(places.pki / CERTIFICATE_FILE))
        self._contexts: list[ssl.SSLContext] = []
        self._listeners: list[Callable[[], None]] = []

    def client(self) -> ssl.SSLContext:
        """Make a client's context that speaks as this node."""
        places = self._places
        context = tls.client_context(self.trust.pem(), places.certificate, places.key)
        self._contexts.append(context)
        return checked(context, self.refusal)

    def server(self, *, require_client: bool = False) -> ssl.SSLContext:
        """Make a server's context; see ``pki.tls.server_context``."""
        places = self._places
        context = tls.server_context(self.trust.pem(), places.certificate, places.key, require_client=require_client)
        self._contexts.append(context)
        return context

    def certificate(self) -> x509.Certificate:
        """Read the certificate in use."""
        return load_certificate(read_public(self._places.certificate))

    def issuer(self) -> str:
        """Give the fingerprint of the CA that issued the certificate in use."""
        return self.trust.issuer(self.certificate())

    def refusal(self, der: bytes) -> str:
        """Say why another one's certificate is refused; empty when it is not."""
        return self.trust.refusal(der)

    def on_replace(self, listener: Callable[[], None]) -> None:
        """Call ``listener`` whenever the certificate was replaced: connections made before carry the old one."""
        self._listeners.append(listener)

    def replace(self, key: bytes, certificate: bytes) -> None:
        """Write a new key with its certificate (PEM), and let every new connection carry it."""
        if not self.trust.issuer(load_certificate(certificate)):
            raise InvalidInput("the new certificate is of a CA that this node does not trust (yet): it was not taken")
        pki = self._places.pki
        write_whole(pki / NEXT_KEY, key)
        write_whole(pki / NEXT_CERTIFICATE, certificate, mode=PUBLIC)  # from here on it happens, whatever comes between
        finish_replacing(self._places)
        for context in self._contexts:
            tls.reload(context, self._places.certificate, self._places.key)
        for listener in self._listeners:
            listener()

    def trust_only(self, bundle: bytes) -> bool:
        """Trust these CAs (PEM) and no others, now and after a restart; tells whether that is a change."""
        fresh = Trust.read(bundle, self.trust.revoked)
        if fresh.authorities == self.trust.authorities:
            return False
        write_whole(self._places.pki / CERTIFICATE_FILE, fresh.pem(), mode=PUBLIC)
        for authority in fresh.authorities:
            if authority not in self.trust.authorities:
                for context in self._contexts:
                    tls.trust_also(context, certificate_pem(authority))
        self.trust = fresh
        log.info("trusted CAs changed", fingerprints=[each[:16] for each in fresh.fingerprints])
        return True

    def refuse(self, serials: frozenset[int]) -> bool:
        """Refuse the certificates with these serial numbers; tells whether that is a change."""
        if serials == self.trust.revoked:
            return False
        self.trust = replace(self.trust, revoked=serials)
        return True


def finish_replacing(places: Places) -> None:
    """Finish what a crash interrupted in :meth:`OwnTls.replace`: key and certificate always change together."""
    key, certificate = places.pki / NEXT_KEY, places.pki / NEXT_CERTIFICATE
    if not certificate.exists():
        key.unlink(missing_ok=True)
        return
    if key.exists():
        key.replace(places.key)
    certificate.replace(places.certificate)
