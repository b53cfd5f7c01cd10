"""A workload from apply to answering, and everything one may ask of it while it runs."""

from __future__ import annotations

from .client import fetch
from .conftest import Place


def test_a_web_server_answers_through_its_virtual_ip(place: Place):
    place.web(replicas=2)
    place.rolled_out()
    address = place.node.virtual_ip(place.name, "web")
    assert fetch(place.node.space, address, 80) == (200, "one\n")
