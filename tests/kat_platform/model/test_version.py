"""Versions that work together, and that what a later version adds does not break an older one."""

from __future__ import annotations

import json
from ipaddress import IPv4Address
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError

from kat_platform.agent.tables import NodeView, fold
from kat_platform.errors import InvalidInput
from kat_platform.model.cluster import ClusterConfiguration
from kat_platform.model.documents import KINDS
from kat_platform.model.event import Event
from kat_platform.model.instance import InstanceRecord, InstanceStatus
from kat_platform.model.meta import Metadata
from kat_platform.model.node import Condition, NodeRecord, NodeReport, NodeStanding, NodeTaint
from kat_platform.model.revision import Revision
from kat_platform.model.version import agents_of, too_far, work_together
from kat_platform.model.view import AssignmentItem, ClusterItem, EndpointItem, NodeItem, ReportBody, ServiceItem
from kat_platform.testing import strategies

LATER = {"fromALaterVersion": {"deep": [1, {"er": None}]}, "another": "x"}


def grown(value: Any, wire: Any) -> Any:
    """Add what no version knows to every model within a value; keys of maps are data and stay."""
    if isinstance(value, BaseModel):
        made = dict(wire)
        for name, field in type(value).model_fields.items():
            alias = field.alias or name
            if alias in made:
                made[alias] = grown(getattr(value, name), made[alias])
        return {**made, **LATER}
    if isinstance(value, list | tuple) and isinstance(wire, list):
        return [grown(v, w) for v, w in zip(value, wire, strict=True)]
    if isinstance(value, dict) and isinstance(wire, dict):
        return {key: grown(value[key], wire[key]) for key in wire if key in value}
    return wire


@given(strategies.models("Workload"), strategies.models("VirtualLoadBalancer"))
def test_a_view_with_additions_is_read_as_without(workload: Any, balancer: Any) -> None:
    record = InstanceRecord(id="web-1", namespace="default", workload="web", revision=1, node="n1")
    endpoint = EndpointItem(id="web-1", node="n1", address=IPv4Address("10.100.0.2"), ready=True)
    items: dict[str, BaseModel] = {
        "cluster": ClusterItem(configuration=ClusterConfiguration(metadata=Metadata(name="c"))),
        "node/n1": NodeItem(name="n1", addresses=("192.0.2.1",)),
        "service/default/web": ServiceItem(
            namespace="default", workload="web", spec=balancer.spec, endpoints=(endpoint,)
        ),
        "instance/default/web-1": AssignmentItem(record=record, document=workload, health_check_from=balancer.spec),
    }
    wires = {key: item.model_dump(mode="json", by_alias=True, exclude_none=True) for key, item in items.items()}
    more = {key: grown(item, wires[key]) for key, item in items.items()}
    assert all("fromALaterVersion" in body for body in more.values())
    assert fold(NodeView("n1"), more) == fold(NodeView("n1"), wires)


@given(strategies.models("Workload"))
def test_what_a_later_version_stored_is_read_as_without(workload: Any) -> None:
    for value in (
        NodeRecord(name="n1", taints=(NodeTaint(key="a"),)),
        NodeReport(conditions=(Condition(type="Ready", status=True),)),
        NodeStanding(),
        InstanceStatus(),
        Event(reason="R", object_kind="Node", object_name="n1"),
        Revision(namespace="default", workload="web", number=1, created_at=1.0, files_digest="d", document=workload),
    ):
        wire = grown(value, json.loads(value.to_json()))
        assert type(value).from_json(json.dumps(wire)) == value
        assert type(value).from_peer(wire) == type(value).from_peer(json.loads(value.to_json()))
        with pytest.raises(ValidationError):
            type(value).model_validate(wire)


def test_a_report_with_additions_is_read() -> None:
    body = ReportBody(node=NodeReport().to_wire(), instances={"default/a": InstanceStatus().to_wire()})
    assert ReportBody.from_json(json.dumps(grown(body, body.to_wire()))) == body


@given(strategies.documents("Workload"))
def test_users_documents_stay_strict(document: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        KINDS["Workload"].model_validate({**document, **LATER})


versions = st.tuples(st.integers(0, 99), st.integers(0, 99), st.integers(0, 9))


@given(versions, versions)
def test_one_minor_version_apart_and_no_more(one: tuple[int, int, int], other: tuple[int, int, int]) -> None:
    a, b = (".".join(map(str, each)) for each in (one, other))
    together = work_together(a, b)
    assert together == work_together(b, a)
    assert together == (one[0] == other[0] and abs(one[1] - other[1]) <= 1)
    oldest, newest = agents_of(a)
    assert together == (oldest <= type(oldest)(other[0], other[1]) <= newest)
    assert (too_far(a, b) is None) == together


def test_who_says_no_version_is_let_pass_and_what_to_install_is_said() -> None:
    assert too_far("1.0.0", "") is None
    assert too_far("1.0.0", "curl/8") is None
    assert "install kat 1.2" in str(too_far("1.2.3", "1.0.9"))
    assert too_far("1.2.3", "1.3.0rc1") is None
    with pytest.raises(InvalidInput):
        work_together("1.0", "new")
