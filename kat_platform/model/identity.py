"""How an identity is written down: the URI in a certificate's subjectAltName, and the form of bearer tokens.

Both the authority that issues credentials and the auth driver that reads them need these forms, so they live
below both.

``kat://CLUSTER/node/NAME?role=worker`` names a node, ``kat://CLUSTER/user/NAME?bind=*:admin&bind=shop:edit`` a person
or a program. A certificate carries exactly one of them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final
from urllib.parse import parse_qsl, quote, urlsplit

from kat_platform.errors import InvalidValue
from kat_platform.model.node import NodeRole
from kat_platform.model.scalars import check_name

SCHEME: Final = "kat"
EVERYWHERE: Final = "*"
"""The namespace of a binding that holds in all of them and for the cluster's own resources."""

_USER: Final = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._@-]{0,61}[A-Za-z0-9])?")
_BEARER: Final = re.compile(r"kat_([a-z0-9]{8,32})_([A-Za-z0-9-]{32,128})")
_ROLES: Final = frozenset({"admin", "edit", "view"})


@dataclass(frozen=True, slots=True)
class NodeName:
    """A node's identity as its certificate gives it."""

    cluster: str
    name: str
    role: NodeRole

    def uri(self) -> str:
        """Give the URI for the certificate."""
        return f"{SCHEME}://{check_name(self.cluster)}/node/{check_name(self.name)}?role={self.role.value}"


@dataclass(frozen=True, slots=True)
class UserName:
    """A person's or program's identity; ``bindings`` gives ``admin``, ``edit`` or ``view`` by namespace."""

    cluster: str
    name: str
    bindings: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))

    def uri(self) -> str:
        """Give the URI for the certificate."""
        check_user(self.name)
        pairs = [f"bind={check_binding(space, role)}" for space, role in sorted(self.bindings.items())]
        query = f"?{'&'.join(pairs)}" if pairs else ""
        return f"{SCHEME}://{check_name(self.cluster)}/user/{quote(self.name, safe='@')}{query}"


def check_user(text: str) -> str:
    """Check a user's name: at most 63 of ``A-Za-z0-9._@-``, a letter or digit first and last."""
    if not _USER.fullmatch(text):
        raise InvalidValue(f"'{text[:80]}' is not a valid user name: at most 63 of A-Za-z0-9._@-")
    return text


def check_binding(namespace: str, role: str) -> str:
    """Check a namespace (or ``*``) and a role, and give them as ``NAMESPACE:ROLE``."""
    if namespace != EVERYWHERE:
        check_name(namespace)
    if role not in _ROLES:
        raise InvalidValue(f"'{role[:80]}' is not a role that can be bound: use admin, edit or view")
    return f"{namespace}:{role}"


def parse_identity(uri: str) -> NodeName | UserName:
    """Read what :meth:`NodeName.uri` or :meth:`UserName.uri` wrote; raises ``InvalidValue`` on anything else."""
    found = _read(uri)
    if found.uri() != uri:
        # One spelling only: two certificates name the same identity exactly when their URIs are equal.
        raise InvalidValue(f"'{uri[:200]}' is not the usual spelling of an identity, which is '{found.uri()}'")
    return found


def _read(uri: str) -> NodeName | UserName:
    try:
        parts = urlsplit(uri)
        query = parse_qsl(parts.query, strict_parsing=True, max_num_fields=256) if parts.query else []
    except ValueError as error:
        raise InvalidValue(f"'{uri[:200]}' is not a KAT identity: {error}") from error
    path = parts.path.split("/")
    if parts.scheme != SCHEME or len(path) != 3 or path[0]:
        raise InvalidValue(f"'{uri[:200]}' is not a KAT identity: expected kat://CLUSTER/node/NAME or .../user/NAME")
    kind, name = path[1], path[2]
    if kind == "node" and [key for key, _ in query] == ["role"] and query[0][1] in set(NodeRole):
        return NodeName(check_name(parts.netloc), check_name(name), NodeRole(query[0][1]))
    if kind == "user" and all(key == "bind" for key, _ in query):
        bindings = {space: role for space, _, role in (value.partition(":") for _, value in query)}
        return UserName(check_name(parts.netloc), check_user(name), MappingProxyType(bindings))
    raise InvalidValue(f"'{uri[:200]}' is not a KAT identity: a node needs its role, a user may have bindings")


def join_bearer(token_id: str, secret: str) -> str:
    """Write a bearer token as ``kat_ID_SECRET``."""
    text = f"kat_{token_id}_{secret}"
    split_bearer(text)
    return text


def split_bearer(text: str) -> tuple[str, str]:
    """Split ``kat_ID_SECRET``; raises ``InvalidValue`` without repeating the text, which may be a secret."""
    match = _BEARER.fullmatch(text)
    if match is None:
        raise InvalidValue("the bearer token is malformed: it looks like kat_ID_SECRET, on one line, without spaces")
    return match[1], match[2]
