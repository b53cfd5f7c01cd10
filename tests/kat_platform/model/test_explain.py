"""`katcall explain`: every field says what it is, and a wrong name is met with the right one."""

from __future__ import annotations

import pytest

from kat_platform.errors import NotFound
from kat_platform.model.documents import KINDS
from kat_platform.model.explain import FieldHelp, explain


def walk(help_: FieldHelp) -> list[FieldHelp]:
    return [help_, *(below for child in help_.children for below in walk(explain(child.path)))]


@pytest.mark.parametrize("kind", KINDS)
def test_every_field_is_described(kind: str) -> None:
    for found in walk(explain(kind)):
        assert found.description.endswith((".", "{}.")), found.path
        assert found.type not in ("", "any value") or found.path.endswith("pluginConfig"), found.path


def test_a_deep_field() -> None:
    found = explain("workload.spec.updateStrategy.rolling.maxSurge")
    assert found.path == "Workload.spec.updateStrategy.rolling.maxSurge"
    assert (found.default, found.required) == ("1", False)
    assert "25%" in found.type


def test_through_a_list_with_or_without_index() -> None:
    plain, indexed = explain("Workload.spec.container.env.name"), explain("workload.spec.container.env[0].name")
    assert plain == indexed
    assert plain.required
    assert explain("workload.spec.volumes").type == "list of WorkloadVolume"
    assert explain("workload.spec.priority").type == "whole number, -1000 to 1000"


@pytest.mark.parametrize(
    ("path", "meant"),
    [
        ("worklod", "Workload"),
        ("workload.spec.replica", "replicas"),
        ("workload.spec.update_strategy", "updateStrategy"),
    ],
)
def test_a_wrong_name_is_met_with_the_nearest(path: str, meant: str) -> None:
    with pytest.raises(NotFound, match=f"did you mean '{meant}'"):
        explain(path)


def test_there_is_nothing_below_a_plain_value() -> None:
    with pytest.raises(NotFound, match="no fields"):
        explain("workload.spec.replicas.count")
