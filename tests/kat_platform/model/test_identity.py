"""The written forms of identities: one spelling each, and nothing else is accepted."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kat_platform.errors import InvalidValue
from kat_platform.model.identity import NodeName, UserName, join_bearer, parse_identity, split_bearer
from kat_platform.model.node import NodeRole

labels = st.from_regex(r"[a-z0-9]([a-z0-9-]{0,20}[a-z0-9])?", fullmatch=True)
users = st.from_regex(r"[A-Za-z0-9]([A-Za-z0-9._@-]{0,20}[A-Za-z0-9])?", fullmatch=True)
roles = st.sampled_from(["admin", "edit", "view"])


@settings(deadline=None)
@given(labels, labels, st.sampled_from(NodeRole))
def test_node_round_trip(cluster: str, name: str, role: NodeRole) -> None:
    node = NodeName(cluster, name, role)
    assert parse_identity(node.uri()) == node


@settings(deadline=None)
@given(labels, users, st.dictionaries(labels | st.just("*"), roles, max_size=4))
def test_user_round_trip(cluster: str, name: str, bindings: dict[str, str]) -> None:
    user = UserName(cluster, name, bindings)
    assert parse_identity(user.uri()) == user


@settings(deadline=None)
@given(st.text(max_size=60).map(lambda tail: "kat://" + tail) | st.text(max_size=60))
def test_anything_else_is_refused_or_spelled_the_one_way(text: str) -> None:
    try:
        found = parse_identity(text)
    except InvalidValue:
        return
    assert found.uri() == text


@pytest.mark.parametrize(
    "uri",
    [
        "kat://c/node/a",
        "kat://c/node/a?role=root",
        "kat://c/node/a?role=worker&role=control-plane",
        "kat://c/node/a?role=worker&bind=*:admin",
        "kat://c/user/a?bind=*:root",
        "kat://c/user/a?bind=*:node",
        "kat://c/user/a?role=worker",
        "kat://c/user/a/b",
        "kat://C/user/a",
        "kat://c/user/a#x",
        "kat://c:1/user/a",
        "https://c/user/a",
        "kat://c/node/%61?role=worker",
    ],
)
def test_bad_identities(uri: str) -> None:
    with pytest.raises(InvalidValue):
        parse_identity(uri)


def test_bearer_round_trip_and_refusal_without_repeating_it() -> None:
    text = join_bearer("abcdef123456", "s" * 48)
    assert split_bearer(text) == ("abcdef123456", "s" * 48)
    with pytest.raises(InvalidValue) as caught:
        split_bearer(text + " ")
    assert "sss" not in str(caught.value)
