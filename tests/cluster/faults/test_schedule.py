"""The schedule of faults follows from the seed, and holds nothing that a user could not do."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from kat_platform.cli.lab import lab

from .schedule import KINDS, Fault, Step, Victim, chosen, drawn


def _all(steps: tuple[Step, ...]) -> list[Fault]:
    return [fault for step in steps for fault in step]


NODES = ("n1", "n2", "n3", "n4", "n5")


@given(st.integers(), st.integers(0, 40))
def test_a_seed_gives_the_same_faults_again(seed: int, count: int) -> None:
    assert drawn(seed, count) == drawn(seed, count)
    assert len(drawn(seed, count)) == count


@given(st.integers())
def test_every_kind_comes_before_any_comes_again(seed: int) -> None:
    faults = _all(drawn(seed, 3 * len(KINDS), longest=5.0))
    for turn in range(3):
        some = faults[turn * len(KINDS) : (turn + 1) * len(KINDS)]
        assert {fault.kind.name for fault in some} == set(KINDS)
    assert all(fault.victim in fault.kind.victims and fault.hold <= 5.0 for fault in faults)


@given(st.integers(), st.floats(0, 1))
def test_faults_of_a_step_are_there_at_the_same_time(seed: int, together: float) -> None:
    for step in drawn(seed, 10, together=together):
        first, *others = step
        assert first.at == 0.0
        assert len(others) <= 1
        assert all(fault.at <= first.hold for fault in others)


def test_different_seeds_give_different_faults() -> None:
    assert len({drawn(seed, 12) for seed in range(20)}) == 20


def test_every_fault_is_a_verb_of_the_lab_with_options_it_has() -> None:
    for kind in KINDS.values():
        for verb, *words in filter(None, (kind.make, kind.heal)):
            known = {name for option in lab.commands[verb].params for name in option.opts}
            assert {word for word in words if word.startswith("--")} <= known, kind.name


def test_the_chosen_faults_restart_every_node_and_end_with_all_of_them() -> None:
    faults = _all(chosen(NODES))
    assert [fault.victim for fault in faults if fault.kind.name == "reboot"] == list(NODES)
    assert faults[-1].victim is Victim.ALL
    assert any(fault.kind.name == "pause" and fault.hold >= 60 for fault in faults)
