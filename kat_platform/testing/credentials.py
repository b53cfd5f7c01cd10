"""Real credentials for tests of plugins: the authority, certificates and tokens that KAT itself uses."""

from __future__ import annotations

from kat_platform.pki import certificates
from kat_platform.pki.authority import Authority
from kat_platform.pki.tokens import make_api_token

__all__ = ["Authority", "certificates", "make_api_token"]
