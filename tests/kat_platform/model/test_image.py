"""Image references: normalised once and for all, refused when no registry would take them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kat_platform.errors import InvalidValue
from kat_platform.model.image import ImageReference, check_repository
from kat_platform.testing.strategies import images

DIGEST = "sha256:" + "a" * 64


@pytest.mark.parametrize(
    ("text", "registry", "repository", "tag", "digest"),
    [
        ("app", None, "app", "latest", None),
        ("team/app:1.2", None, "team/app", "1.2", None),
        ("localhost/kat/hello:1", "localhost", "kat/hello", "1", None),
        ("registry.example:5000/app", "registry.example:5000", "app", "latest", None),
        ("[::1]:5000/app:x", "[::1]:5000", "app", "x", None),
        (f"app@{DIGEST}", None, "app", None, DIGEST),
        (f"r.example/app:1@{DIGEST}", "r.example", "app", "1", DIGEST),
    ],
)
def test_parts(text: str, registry: str | None, repository: str, tag: str | None, digest: str | None) -> None:
    reference = ImageReference.parse(text)
    assert reference == ImageReference(repository, registry, tag, digest)


@given(images)
def test_normalising_twice_changes_nothing(text: str) -> None:
    once = ImageReference.parse(text)
    assert ImageReference.parse(str(once)) == once


@given(st.text(max_size=40))
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        reference = ImageReference.parse(text)
    except InvalidValue:
        return
    assert ImageReference.parse(str(reference)) == reference


@pytest.mark.parametrize(
    "text",
    [
        "",
        " app",
        "App",
        "app:",
        "app: 1",
        "a//b",
        "/app",
        "app/",
        "app@sha256:12",
        "app:-x",
        "host:99999/app",
        "-a",
        "a b",
        "https://r.example/app",
        "app\n",
        "a..b",
        "registry.example/",
    ],
)
def test_what_is_no_reference_is_refused(text: str) -> None:
    with pytest.raises(InvalidValue):
        ImageReference.parse(text)


def test_a_repository_has_no_tag() -> None:
    assert check_repository("r.example:5000/cache") == "r.example:5000/cache"
    for text in ("cache:1", "cache:latest", f"cache@{DIGEST}"):
        with pytest.raises(InvalidValue):
            check_repository(text)
