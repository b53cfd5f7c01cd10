"""Refresh: keeps a context good while a cluster changes its CA: whom it trusts, and its own certificate."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from kat_platform.cli.client import Client
from kat_platform.cli.context import Context, save


def refresh_ca(client: Client) -> Context:
    """Have a client's context trust what its cluster trusts now; gives the context as it is kept from now on."""
    fresh = replace(client.context, ca=_trusted(client))
    save(fresh)
    return fresh


def refresh_context(client: Client) -> Context:
    """Give a client's context a new certificate too, where it has one; its key is made here, and is new as well.

    A bearer token goes on as it is.
    """
    context = client.context
    if context.token or not (context.certificate and context.key):
        return refresh_ca(client)
    from kat_platform.pki import certificates

    holder = certificates.identity_of(certificates.load_certificate(context.certificate.encode()))
    key = certificates.make_key()
    csr = certificates.make_csr(key, holder).decode()
    answer: dict[str, Any] = client.post("certificate", body={"csr": csr})
    fresh = replace(
        context,
        ca=str(answer["trusted"]),
        certificate=str(answer["certificate"]),
        key=certificates.key_pem(key).decode(),
    )
    save(fresh)
    return fresh


def _trusted(client: Client) -> str:
    """Ask over a connection that is trusted already, so that nobody in between can slip in a CA of his own."""
    found = client.request("GET", "/ca").data
    return str(found.get("trusted") or found["ca"])
