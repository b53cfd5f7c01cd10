"""The matrix of rights, as properties over every role, verb and resource."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from kat_auth_mtls.access import CLUSTER_RESOURCES, NAMESPACED_RESOURCES, SENSITIVE, decide

from kat_platform.interfaces.auth import Identity, Request, Role, Verb

spaces = st.sampled_from(["shop", "bank", "*"])
people = st.sampled_from([Role.ADMIN, Role.EDIT, Role.VIEW])
resources = st.sampled_from(sorted(CLUSTER_RESOURCES | NAMESPACED_RESOURCES | {"widgets", "workloads/scale"}))
requests = st.builds(
    Request,
    st.sampled_from(Verb),
    resources,
    st.sampled_from([None, "shop", "bank", "*"]),
    st.sampled_from(["", "n1", "n2", "shop"]),
)
bindings = st.dictionaries(spaces, people, max_size=3)
STRENGTH = {Role.VIEW: 0, Role.EDIT: 1, Role.ADMIN: 2}


@settings(deadline=None)
@given(bindings, requests)
def test_every_decision_has_a_reason(held: dict[str, Role], request: Request) -> None:
    assert decide(Identity("ada", held), request).reason


@settings(deadline=None)
@given(bindings, spaces, people, requests)
def test_a_further_binding_never_takes_a_right_away(
    held: dict[str, Role], space: str, role: Role, request: Request
) -> None:
    before = decide(Identity("ada", held), request).allowed
    stronger = max(role, held.get(space, role), key=STRENGTH.__getitem__)
    assert decide(Identity("ada", {**held, space: stronger}), request).allowed >= before


@settings(deadline=None)
@given(people, requests)
def test_a_binding_elsewhere_gives_nothing_here(role: Role, request: Request) -> None:
    if request.namespace == "shop" or request.resource == "leader":
        return
    if (request.resource, request.verb, request.name) == ("namespaces", Verb.READ, "shop"):
        return
    assert not decide(Identity("ada", {"shop": role}), request).allowed


@settings(deadline=None)
@given(bindings, requests)
def test_only_administrators_of_the_cluster_touch_what_belongs_to_it(held: dict[str, Role], request: Request) -> None:
    allowed = decide(Identity("ada", held), request).allowed
    if request.resource in CLUSTER_RESOURCES and held.get("*") is not Role.ADMIN:
        assert not (allowed and request.verb is not Verb.READ)
        assert not (allowed and request.resource in SENSITIVE)


@settings(deadline=None)
@given(people, requests)
def test_view_only_reads_and_never_secrets(role: Role, request: Request) -> None:
    if decide(Identity("ada", {"*": Role.VIEW}), request).allowed:
        assert request.verb is Verb.READ
        assert request.resource != "secrets"


@settings(deadline=None)
@given(bindings, requests)
def test_nobody_but_a_node_reports(held: dict[str, Role], request: Request) -> None:
    if request.verb is Verb.REPORT:
        assert not decide(Identity("ada", held), request).allowed


@settings(deadline=None)
@given(st.booleans(), requests, bindings)
def test_a_node_changes_nothing_and_reports_only_itself(
    control_plane: bool, request: Request, held: dict[str, Role]
) -> None:
    # Whatever else its bindings say: a node's certificate gives a node's rights.
    node = Identity("node:n1", {"*": Role.NODE, **held}, node="n1", control_plane=control_plane)
    allowed = decide(node, request).allowed
    if request.verb in (Verb.WRITE, Verb.DELETE):
        assert not allowed
    if request.verb is Verb.REPORT:
        assert allowed == (request.resource == "nodes" and request.name == "n1")
    if request.verb is Verb.EXEC or request.resource in ("workloads", "instances"):
        assert not allowed or control_plane
    if request.resource in SENSITIVE | {"secrets"}:
        assert not allowed


@settings(deadline=None)
@given(requests)
def test_role_node_without_a_node_is_nobody(request: Request) -> None:
    assert not decide(Identity("x", {"*": Role.NODE}), request).allowed


@settings(deadline=None)
@given(requests)
def test_who_has_no_binding_has_no_right(request: Request) -> None:
    assert not decide(Identity("ada", {}), request).allowed


def test_the_usual_cases() -> None:
    edit, admin = Identity("ed", {"shop": Role.EDIT}), Identity("al", {"*": Role.ADMIN})
    for verb, resource in ((Verb.WRITE, "workloads"), (Verb.WRITE, "secrets"), (Verb.EXEC, "instances")):
        assert decide(edit, Request(verb, resource, "shop")).allowed
    assert decide(edit, Request(Verb.WRITE, "workloads/scale", "shop", "web")).allowed
    assert decide(edit, Request(Verb.READ, "namespaces", None, "shop")).allowed
    assert not decide(edit, Request(Verb.WRITE, "events", "shop")).allowed
    assert decide(admin, Request(Verb.WRITE, "widgets", None)).allowed
    assert decide(admin, Request(Verb.WRITE, "tokens", None)).allowed
