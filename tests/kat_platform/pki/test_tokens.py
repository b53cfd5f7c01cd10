"""Tokens: nothing but the exact text is accepted, and each use counts."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kat_platform.errors import InvalidValue, Unauthenticated
from kat_platform.interfaces.auth import Role
from kat_platform.model.identity import split_bearer
from kat_platform.model.node import NodeRole
from kat_platform.pki.tokens import JoinToken, make_api_token, make_join_token, redeem

OURS, THEIRS = "ab" * 32, "cd" * 32


@settings(deadline=None)
@given(st.sampled_from(NodeRole))
def test_join_token_round_trip(role: NodeRole) -> None:
    token, record = make_join_token(OURS, role, now=0, ttl=60)
    text = token.encode()
    assert JoinToken.decode(text + "\n") == token
    assert text.replace("_", "").isalnum()
    assert token.secret.hex() not in repr(token) + record.model_dump_json()


@settings(deadline=None)
@given(st.integers(min_value=0), st.sampled_from("abcdefghijklmnopqrstuvwxyz234567_-A"))
def test_a_changed_character_is_noticed(place: int, letter: str) -> None:
    text = JoinToken("00" * 6, OURS, NodeRole.WORKER, bytes(24)).encode()
    place %= len(text)
    changed = text[:place] + letter + text[place + 1 :]
    if changed == text:
        return
    with pytest.raises(InvalidValue):
        JoinToken.decode(changed)


@settings(deadline=None)
@given(st.text(max_size=200))
def test_garbage_is_refused(text: str) -> None:
    with pytest.raises(InvalidValue):
        JoinToken.decode("katjoin1_" + text)


def test_redeem_counts_down() -> None:
    token, record = make_join_token(OURS, NodeRole.WORKER, now=100, ttl=60, uses=2)
    record = redeem(record, token, fingerprint=OURS, now=101)
    record = redeem(record, token, fingerprint=OURS, now=102)
    with pytest.raises(Unauthenticated, match="used up"):
        redeem(record, token, fingerprint=OURS, now=103)


def test_redeem_refuses() -> None:
    token, record = make_join_token(OURS, NodeRole.WORKER, now=100, ttl=60)
    promoted = JoinToken(token.id, OURS, NodeRole.CONTROL_PLANE, token.secret)
    guessed = JoinToken(token.id, OURS, NodeRole.WORKER, bytes(24))
    with pytest.raises(Unauthenticated, match="expired"):
        redeem(record, token, fingerprint=OURS, now=160)
    with pytest.raises(Unauthenticated, match="another cluster"):
        redeem(record, token, fingerprint=THEIRS, now=101)
    for bad in (promoted, guessed):
        with pytest.raises(Unauthenticated, match="unknown"):
            redeem(record, bad, fingerprint=OURS, now=101)
    with pytest.raises(Unauthenticated, match="unknown"):
        redeem(None, token, fingerprint=OURS, now=101)


def test_wrong_secret_learns_nothing_of_an_expired_record() -> None:
    token, record = make_join_token(OURS, NodeRole.WORKER, now=100, ttl=1)
    with pytest.raises(Unauthenticated, match="unknown"):
        redeem(record, JoinToken(token.id, OURS, NodeRole.WORKER, bytes(24)), fingerprint=OURS, now=1000)


def test_bad_lifetimes_and_uses() -> None:
    for ttl, uses in ((0.5, 1), (60, 0)):
        with pytest.raises(InvalidValue):
            make_join_token(OURS, NodeRole.WORKER, now=0, ttl=ttl, uses=uses)


def test_api_token() -> None:
    text, record = make_api_token("ada", {"*": Role.ADMIN}, now=100, ttl=60)
    token_id, secret = split_bearer(text)
    assert record.id == token_id
    assert secret not in repr(record)
    assert record.expires_at == 160
    with pytest.raises(InvalidValue):
        make_api_token("ada", {"*": Role.NODE}, now=0, ttl=None)
