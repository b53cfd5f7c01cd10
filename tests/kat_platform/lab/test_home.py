"""Where labs are written down: no two are planned at once, whoever plans them."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest

from kat_platform.errors import Conflict
from kat_platform.lab import home as homes
from kat_platform.lab.home import VARIABLE, Home, alone
from kat_platform.lab.plan import plan_lab


@pytest.fixture(autouse=True)
def _own_host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep away from the labs that other tests plan at this moment."""
    (tmp_path / "run").mkdir()
    monkeypatch.setattr(homes, "RUN", tmp_path / "run")
    monkeypatch.setenv(VARIABLE, str(tmp_path / "one"))


def test_labs_of_different_homes_are_not_planned_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(homes, "ALONE_SECONDS", 0.1)
    with alone("this"):
        monkeypatch.setenv(VARIABLE, str(tmp_path / "other"))
        with pytest.raises(Conflict, match="another 'that' is at work"), alone("that"):
            pytest.fail("both planned a lab")
    with alone("that"):
        pass  # once the other one is done
    assert list((tmp_path / "run").iterdir()) == [], "no file stays behind"


def test_who_comes_second_waits() -> None:
    held, done = threading.Event(), list[str]()

    def first() -> None:
        with alone("first"):
            held.set()
            time.sleep(0.2)
            done.append("first")

    thread = threading.Thread(target=first)
    thread.start()
    held.wait()
    with alone("second"):
        done.append("second")
    thread.join()
    assert done == ["first", "second"]


def test_the_last_lab_takes_the_folder_of_all_with_it(tmp_path: Path) -> None:
    both = [Home("a"), Home("b")]
    for home in both:
        home.save(plan_lab(home.name, nodes=1, control_plane=1, taken=(), now=0.0))
    assert {path.stat().st_mode & 0o777 for path in (tmp_path / "one", both[0].folder)} == {0o700}
    both[0].remove()
    assert homes.names() == ["b"]
    both[1].remove()
    assert not (tmp_path / "one").exists()
    both[1].remove()  # a second time does no harm
