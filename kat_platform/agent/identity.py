"""Identity: the node's key and certificate on disk, the TLS contexts that carry them, and changing both in place."""

from __future__ import annotations

import ssl
from collections.abc import Callable
from typing import Final

from cryptography import x509

from kat_platform.agent.local import Places
from kat_platform.pki import tls
from kat_platform.pki.authority import CERTIFICATE_FILE
from kat_platform.pki.certificates import load_certificate
from kat_platform.pki.files import PUBLIC, read_public, write_whole

NEXT_KEY: Final = "node.next.key"
NEXT_CERTIFICATE: Final = "node.next.pem"


class OwnTls:
    """Makes TLS contexts with the node's certificate, and gives all of them a renewed one while they are in use."""

    def __init__(self, places: Places) -> None:
        self._places = places
        finish_replacing(places)
        self.ca = read_public(places.pki / CERTIFICATE_FILE)
        self._contexts: list[ssl.SSLContext] = []

    def client(self) -> ssl.SSLContext:
        """Make a client's context that speaks as this node."""
        return self._kept(tls.client_context)

    def server(self, *, require_client: bool = False) -> ssl.SSLContext:
        """Make a server's context; see ``pki.tls.server_context``."""
        places = self._places
        context = tls.server_context(self.ca, places.certificate, places.key, require_client=require_client)
        self._contexts.append(context)
        return context

    def _kept(self, make: Callable[..., ssl.SSLContext]) -> ssl.SSLContext:
        context = make(self.ca, self._places.certificate, self._places.key)
        self._contexts.append(context)
        return context

    def certificate(self) -> x509.Certificate:
        """Read the certificate in use."""
        return load_certificate(read_public(self._places.certificate))

    def replace(self, key: bytes, certificate: bytes) -> None:
        """Write a new key with its certificate (PEM), and let every new connection carry it."""
        pki = self._places.pki
        write_whole(pki / NEXT_KEY, key)
        write_whole(pki / NEXT_CERTIFICATE, certificate, mode=PUBLIC)  # from here on it happens, whatever comes between
        finish_replacing(self._places)
        for context in self._contexts:
            tls.reload(context, self._places.certificate, self._places.key)


def finish_replacing(places: Places) -> None:
    """Finish what a crash interrupted in :meth:`OwnTls.replace`: key and certificate always change together."""
    key, certificate = places.pki / NEXT_KEY, places.pki / NEXT_CERTIFICATE
    if not certificate.exists():
        key.unlink(missing_ok=True)
        return
    if key.exists():
        key.replace(places.key)
    certificate.replace(places.certificate)
