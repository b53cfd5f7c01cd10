"""References to container images: ``[registry/]repository[:tag][@digest]``.

Grammar: the "distribution" reference grammar used by Docker and OCI registries. The first part is a registry when it
contains a ``.`` or ``:`` or is ``localhost``. A reference without registry stays without one: which registries short
names are looked for in is the runtime's own configuration.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Annotated, Final

from pydantic import AfterValidator

from kat_platform.errors import InvalidValue

_PART: Final = re.compile(r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*")
_HOST: Final = re.compile(
    r"(?:(?:[A-Za-z0-9]|[A-Za-z0-9][A-Za-z0-9-]*[A-Za-z0-9])(?:\.(?:[A-Za-z0-9]|[A-Za-z0-9][A-Za-z0-9-]*[A-Za-z0-9]))*"
    r"|\[[0-9a-fA-F:]+\])(?::(?P<port>[0-9]{1,5}))?"
)
_TAG: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}")
_DIGEST: Final = re.compile(r"sha256:[0-9a-f]{64}|sha512:[0-9a-f]{128}")
_REPOSITORY_LIMIT: Final = 255


@dataclass(frozen=True, slots=True)
class ImageReference:
    """Where an image is to be had: ``str()`` gives the normalised text, in which tag or digest always stands."""

    repository: str
    registry: str | None = None
    tag: str | None = None
    digest: str | None = None

    @classmethod
    def parse(cls, text: str) -> ImageReference:
        """Read a reference; one with neither tag nor digest gets the tag ``latest``. Raises ``InvalidValue``."""
        if len(text) > 1024 or not text or text != text.strip():
            raise InvalidValue("an image reference is 1 to 1024 characters without space around it")
        rest, at, digest = text.partition("@")
        if at and not _DIGEST.fullmatch(digest):
            raise InvalidValue(f"image '{text}': the digest must be sha256: and 64 hexadecimal digits")
        name, colon, tag = rest.rpartition(":")
        if not colon or "/" in tag:
            name, tag = rest, ""
            colon = ""
        if colon and not _TAG.fullmatch(tag):
            raise InvalidValue(f"image '{text}': the tag is 1 to 128 of A-Za-z0-9_.- and begins with none of .-")
        registry, repository = _split_registry(name, text)
        return cls(repository, registry, tag or (None if at else "latest"), digest or None)

    @property
    def is_moving(self) -> bool:
        """Tell whether the reference may mean another image tomorrow by custom: tag ``latest`` without digest."""
        return self.digest is None and self.tag == "latest"

    def __str__(self) -> str:
        registry = f"{self.registry}/" if self.registry else ""
        tag = f":{self.tag}" if self.tag else ""
        digest = f"@{self.digest}" if self.digest else ""
        return f"{registry}{self.repository}{tag}{digest}"


def _split_registry(name: str, text: str) -> tuple[str | None, str]:
    first, slash, rest = name.partition("/")
    registry = None
    if slash and ("." in first or ":" in first or first == "localhost"):
        match = _HOST.fullmatch(first)
        if match is None or (match["port"] and not 1 <= int(match["port"]) <= 65535):
            raise InvalidValue(f"image '{text}': '{first}' is not a registry's host name and port")
        registry, name = first, rest
    if len(name) > _REPOSITORY_LIMIT or not all(_PART.fullmatch(part) for part in name.split("/")):
        better = name.lower()
        raise InvalidValue(
            f"image '{text}': '{name[:80]}' is not a repository: lower-case letters and digits, parted by / . _ or -",
            hint=f"did you mean '{better}'?" if better != name else None,
        )
    return registry, name


def normalise_image(text: str) -> str:
    """Give the normalised text of a reference; raises ``InvalidValue``."""
    return str(ImageReference.parse(text))


def check_repository(text: str) -> str:
    """Check a reference that names a repository only (KAT adds the tag); raises ``InvalidValue``."""
    reference = ImageReference.parse(text)
    if text != str(replace(reference, tag=None, digest=None)):
        raise InvalidValue(f"'{text}' names a tag or digest: give the repository only")
    return text


Image = Annotated[str, AfterValidator(normalise_image)]
ImageRepository = Annotated[str, AfterValidator(check_repository)]
