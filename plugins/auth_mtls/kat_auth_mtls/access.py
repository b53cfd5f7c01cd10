"""The matrix of rights: role by verb by resource; pure, and the only place where a right is given.

A resource may have a sub-resource (``workloads/scale``): rights are those of the part before the slash. What no
rule allows is denied.
"""

from __future__ import annotations

from typing import Final

from kat_platform.interfaces.auth import Decision, Identity, Request, Role, Verb
from kat_platform.model.identity import EVERYWHERE

CLUSTER_RESOURCES: Final = frozenset({"nodes", "namespaces", "tokens", "backups", "plugins", "leader", "config", "ca"})
"""Resources outside of namespaces (SPEC section 7, and the cluster's own configuration and CA)."""

NAMESPACED_RESOURCES: Final = frozenset(
    {"workloads", "instances", "revisions", "jobs", "volumes", "secrets", "events", "logs", "ports"}
)
"""Resources in namespaces. One that is not listed (a plugin's) counts as such when a namespace is given."""

OPEN: Final = frozenset({"leader"})
"""What everybody who is known may read: it is needed to find the right server."""

SENSITIVE: Final = frozenset({"tokens", "backups", "ca"})
"""Cluster resources that only an administrator may even read."""

HIDDEN_FROM_VIEW: Final = frozenset({"secrets"})
WRITTEN_BY_THE_SYSTEM: Final = frozenset({"events", "revisions", "logs", "ports"})
NODE_READS: Final = frozenset({"nodes", "namespaces", "leader"})
"""What any node may read whole: the mesh and DNS are made of it."""


def decide(identity: Identity, request: Request) -> Decision:
    """Decide one request; the reason is for the caller and for the audit record."""
    base = request.resource.split("/", 1)[0]
    role = _role(identity, request, base)
    if identity.node is not None or role is Role.NODE:
        return _decide_node(identity, request, base)
    if role is None:
        if request.verb is Verb.READ and _open_to(identity, request, base):
            return Decision(True, f"everybody may read this {base}")
        return Decision(False, f"{identity.name} has no role {_where(request, base)}")
    if _may(role, request, base):
        return Decision(True, f"role {role.value} {_where(request, base)}")
    return Decision(False, f"role {role.value} {_where(request, base)} may not {request.verb.value} {request.resource}")


def _role(identity: Identity, request: Request, base: str) -> Role | None:
    """Give the stronger of the namespace's binding and the general one; only the latter counts for the cluster."""
    held = [identity.bindings.get(EVERYWHERE)]
    if request.namespace is not None and request.namespace != EVERYWHERE and base not in CLUSTER_RESOURCES:
        held.append(identity.bindings.get(request.namespace))
    order = [Role.ADMIN, Role.EDIT, Role.VIEW, Role.NODE]
    return next((role for role in order if role in held), None)


def _open_to(identity: Identity, request: Request, base: str) -> bool:
    if base in OPEN:
        return bool(identity.bindings)
    return request.resource == "namespaces" and bool(request.name) and request.name in identity.bindings


def _may(role: Role, request: Request, base: str) -> bool:
    if request.verb is Verb.REPORT:
        return False  # a report is a node speaking of itself: nobody can do that for it
    if role is Role.ADMIN:
        return True
    if base in CLUSTER_RESOURCES:
        return request.verb is Verb.READ and base not in SENSITIVE
    if base not in NAMESPACED_RESOURCES and request.namespace is None:
        return False
    if role is Role.EDIT:
        return request.verb is Verb.READ or request.verb is Verb.EXEC or base not in WRITTEN_BY_THE_SYSTEM
    return role is Role.VIEW and request.verb is Verb.READ and base not in HIDDEN_FROM_VIEW


def _decide_node(identity: Identity, request: Request, base: str) -> Decision:
    if identity.node is None:
        return Decision(False, f"{identity.name} has role node but is no node")
    own = base == "nodes" and request.name == identity.node
    if request.verb is Verb.REPORT:
        if own:
            return Decision(True, "a node reports about itself")
        return Decision(False, f"node {identity.node} may report only about itself")
    if request.verb is Verb.READ and (own or request.resource in NODE_READS):
        return Decision(True, "a node reads its own view and the mesh")
    if identity.control_plane and request.verb in (Verb.READ, Verb.EXEC) and base not in SENSITIVE | HIDDEN_FROM_VIEW:
        # The API on a control-plane node passes logs and exec on to the agent that has the instance.
        return Decision(True, "a control-plane node serves the API")
    return Decision(False, f"node {identity.node} may not {request.verb.value} {request.resource}")


def _where(request: Request, base: str) -> str:
    if base in CLUSTER_RESOURCES:
        return "for the cluster"
    return "for all namespaces" if request.namespace in (None, EVERYWHERE) else f"in namespace {request.namespace}"
