"""Auth driver ``mtls``: certificates of the cluster's CA and bearer tokens, with the roles of SPEC section 7."""

from __future__ import annotations

__version__ = "1.0.0"
