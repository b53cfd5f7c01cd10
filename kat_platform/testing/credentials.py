"""Real credentials for tests of auth drivers: the authority and the tokens that KAT itself uses."""

from __future__ import annotations

from kat_platform.pki.authority import Authority
from kat_platform.pki.tokens import make_api_token

__all__ = ["Authority", "make_api_token"]
