"""Builder: makes an image from source. Runs on the node that the leader chose for the build.

Idempotent: a build whose ``tag`` is present with the same inputs may return at once. Everything a build makes
besides the image is gone when it ends, also when it is cancelled.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

from kat_platform.interfaces.driver import Driver


@dataclass(frozen=True, slots=True)
class GitSource:
    """A repository and exactly one of branch, tag and commit; after :meth:`Builder.resolve` always a commit."""

    repository: str
    branch: str | None = None
    tag: str | None = None
    commit: str | None = None


@dataclass(frozen=True, slots=True)
class BuildRequest:
    """One build: what, how and under which tag. ``timeout`` in seconds."""

    source: GitSource
    tag: str
    context: str = "."
    dockerfile: str = "./Dockerfile"
    build_args: Mapping[str, str] = field(default_factory=dict)
    target: str | None = None
    platform: str | None = None
    cache_registry: str | None = None
    push_to: str | None = None
    timeout: float = 1800.0


@dataclass(frozen=True, slots=True)
class BuildResult:
    """The image that came of it: reference, image id, and the manifest digest where it was pushed."""

    reference: str
    image_id: str
    digest: str | None = None


@runtime_checkable
class Builder(Driver, Protocol):
    """Makes images from source; see the module."""

    async def resolve(self, source: GitSource) -> GitSource:
        """Turn branch or tag into the commit it names now. Raises ``NotFound`` or ``Unavailable``."""

    def build(self, request: BuildRequest) -> AsyncIterator[str | BuildResult]:
        """Build, giving the output's lines and at last the result. Raises ``BuildFailed``."""
