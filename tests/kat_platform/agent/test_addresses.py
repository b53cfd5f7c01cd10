"""Addresses are unique, usable and reused late."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kat_platform.agent.addresses import next_address
from kat_platform.errors import Unavailable

SUBNET = IPv4Network("10.100.0.0/28")


@given(st.sets(st.integers(2, 14), max_size=12), st.one_of(st.none(), st.integers(2, 14)))
def test_a_free_usable_address_is_given_as_long_as_there_is_one(taken: set[int], after: int | None) -> None:
    base = int(SUBNET.network_address)
    used = {str(IPv4Address(base + n)) for n in taken}
    found = next_address(SUBNET, used, None if after is None else str(IPv4Address(base + after)))
    assert str(found) not in used
    assert base + 2 <= int(found) <= base + 14


def test_a_freed_address_is_not_given_again_at_once() -> None:
    first = next_address(SUBNET, [], None)
    assert next_address(SUBNET, [], str(first)) != first


def test_a_full_subnet_says_so() -> None:
    base = int(SUBNET.network_address)
    with pytest.raises(Unavailable, match="13 addresses"):
        next_address(SUBNET, [str(IPv4Address(base + n)) for n in range(2, 15)], None)
