"""A disk of its own for each machine of a lab; filling one is tried for real by the fault runs."""

from __future__ import annotations

from pathlib import Path

import pytest

from kat_platform.errors import Conflict, InvalidInput
from kat_platform.lab import disk, home
from kat_platform.lab.plan import Lab, plan_lab


def planned(disk_mib: int | None) -> Lab:
    return plan_lab("d", nodes=1, control_plane=1, taken=(), now=0.0, disk_mib=disk_mib)


def test_the_hosts_own_disk_is_never_filled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(home.VARIABLE, str(tmp_path))
    lab = planned(None)
    (tmp_path / "d" / "n1" / "data").mkdir(parents=True)
    with pytest.raises(Conflict, match="share the host's disk"):
        disk.fill(home.Home("d"), lab, lab.nodes[0])
    assert not disk.is_full(tmp_path / "d/n1/data")


def test_the_disk_of_a_machine_that_is_off_is_not_filled_either(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(home.VARIABLE, str(tmp_path))
    lab = planned(512)
    (tmp_path / "d" / "n1" / "data").mkdir(parents=True)
    with pytest.raises(Conflict, match="is off"):
        disk.fill(home.Home("d"), lab, lab.nodes[0])
    disk.empty(home.Home("d"), lab.nodes[0])


def test_a_disk_on_which_no_store_fits_is_refused() -> None:
    with pytest.raises(InvalidInput, match="at least 256"):
        planned(100)
