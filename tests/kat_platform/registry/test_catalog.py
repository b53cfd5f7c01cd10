"""The catalogue sees every installed plugin once, and imports none."""

from __future__ import annotations

import sys
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from kat_platform.interfaces import Capability
from kat_platform.registry.catalog import Catalog, nearest

GROUP = Capability.SCHEDULER.group


def read(*folders: Path) -> Catalog:
    return Catalog.read([str(folder) for folder in folders])


def test_lists_distribution_version_and_target_without_importing(install):
    site = install(
        "kt-one",
        {GROUP: {"one": "kt_bomb:Driver"}, "console_scripts": {"x": "y:z"}},
        {"kt_bomb": "raise SystemExit(9)"},
    )
    (entry,) = read(site).entries
    assert (entry.distribution, entry.version, entry.name, entry.target) == ("kt-one", "1.0", "one", "kt_bomb:Driver")
    assert "kt_bomb" not in sys.modules
    assert "kt-one 1.0" in entry.origin


def test_the_same_distribution_further_down_the_path_is_shadowed_not_duplicated(install):
    first = install("kt_one", {GROUP: {"one": "kt_one:Driver"}}, version="2.0", folder="checkout")
    second = install("KT-One", {GROUP: {"one": "kt_one:Driver"}}, version="1.0", folder="wheel")
    catalog = read(first, second)
    assert [entry.version for entry in catalog.named(GROUP, "one")] == ["2.0"]
    assert [entry.version for entry in catalog.shadowed] == ["1.0"]


def test_one_folder_twice_on_the_path_is_no_duplicate(install):
    site = install("kt-one", {GROUP: {"one": "kt_one:Driver"}})
    assert len(read(site, site).named(GROUP, "one")) == 1


def test_two_distributions_with_one_name_are_both_listed(install):
    install("kt-one", {GROUP: {"same": "a:A"}})
    site = install("kt-two", {GROUP: {"same": "b:B"}})
    assert [entry.distribution for entry in read(site).named(GROUP, "same")] == ["kt-one", "kt-two"]


def test_what_is_not_ours_and_what_is_damaged_is_passed_over(install, tmp_path: Path):
    site = install("kt-other", {"console_scripts": {"kt": "a:b"}, "kat.unheard": {"x": "a:b"}})
    (site / "broken-1.0.dist-info").mkdir()
    (site / "empty-1.0.dist-info").mkdir()
    (site / "empty-1.0.dist-info" / "entry_points.txt").write_text("")
    assert read(site, tmp_path / "nowhere").entries == ()


@given(st.text(max_size=30), st.lists(st.text(max_size=10), max_size=10))
def test_nearest_gives_one_of_the_names_or_nothing(name, names):
    assert nearest(name, names) in {None, *names}


def test_nearest_knows_a_slip_of_the_finger():
    assert nearest("binpak", ["podman", "binpack"]) == "binpack"
    assert nearest("zzz", ["podman", "binpack"]) is None
