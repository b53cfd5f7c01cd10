"""The driver: resolves sources; says clearly that it does not build yet."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from typing import ClassVar, Final

from pydantic import BaseModel, ConfigDict, Field

from kat_builder_git import __version__
from kat_builder_git.command import git
from kat_builder_git.references import pick, protocol_of, redact, wanted
from kat_platform.errors import HostNotReady, InvalidInput, NotFound, NotSupportedYet, TimedOut, Unavailable
from kat_platform.interfaces.builder import BuildRequest, BuildResult, GitSource
from kat_platform.interfaces.driver import Capability, CheckResult, DriverContext, DriverInfo, DriverStatus, Health
from kat_platform.model.base import Model

_MISSING: Final = ("not found", "does not exist", "does not appear to be a git repository", "not a git repository")
_REFUSED: Final = ("authentication failed", "permission denied", "could not read username", "access denied")


class GitConfig(Model):
    """``pluginConfig.git``."""

    model_config = ConfigDict(title="git")

    resolve_timeout: float = Field(default=30.0, gt=0, le=600, description="Seconds a repository may take to answer.")
    protocols: tuple[str, ...] = Field(
        default=("https", "ssh"), min_length=1, description="By which protocols repositories may be reached."
    )


class GitBuilder:
    """Finds the commit to build with ``git ls-remote``; implements ``interfaces.builder.Builder``."""

    info: ClassVar[DriverInfo] = DriverInfo(
        name="git",
        version=__version__,
        capability=Capability.BUILDER,
        capabilities={"resolve": True, "build": False},
        summary="resolves branches and tags of Git repositories; does not build yet",
    )
    Config: ClassVar[type[BaseModel]] = GitConfig

    def __init__(self, config: GitConfig, context: DriverContext) -> None:
        """Keep the parts; no I/O."""
        self._config = config

    @classmethod
    async def check_host(cls, config: GitConfig) -> tuple[CheckResult, ...]:
        """Tell whether git is there; without it everything but building works."""
        try:
            found = await git(["--version"], protocols=config.protocols, timeout=5)
        except (HostNotReady, TimedOut) as error:
            return (CheckResult("git", False, error.message, error.hint or "", required=False),)
        return (CheckResult("git", found.code == 0, found.output.strip(), required=False),)

    async def start(self) -> None:
        """Nothing to prepare."""

    async def stop(self) -> None:
        """Nothing to let go of: each command ends with the call that runs it."""

    async def status(self) -> DriverStatus:
        """Always well: it keeps nothing and connects to nothing until asked."""
        return DriverStatus(Health.OK, facts={"protocols": list(self._config.protocols)})

    async def resolve(self, source: GitSource) -> GitSource:
        """Give the commit that the branch or tag names now.

        Raises ``InvalidInput``, ``NotFound``, ``HostNotReady`` or, worth another try, ``Unavailable``, ``TimedOut``.
        """
        protocol = protocol_of(source.repository)
        if protocol not in self._config.protocols:
            raise InvalidInput(
                f"'{redact(source.repository)}' would be reached by {protocol}, which is not allowed",
                hint=f"allowed are {', '.join(self._config.protocols)} (pluginConfig.git.protocols)",
            )
        references = wanted(source)
        if not references:
            return source
        found = await git(
            ["ls-remote", "--quiet", "--", source.repository, *references],
            protocols=self._config.protocols,
            timeout=self._config.resolve_timeout,
        )
        if found.code:
            raise _failure(found.errors, source.repository)
        return replace(source, branch=None, tag=None, commit=pick(found.output, references, source.repository))

    def build(self, request: BuildRequest) -> AsyncIterator[str | BuildResult]:
        """Refuse: this version resolves sources and does not build; raises ``NotSupportedYet``."""
        raise NotSupportedYet(
            f"this version cannot build '{request.tag}' from {redact(request.source.repository)}",
            hint="build the image elsewhere and name it in source.image",
        )


def _failure(errors: str, repository: str) -> NotFound | Unavailable:
    """Tell apart what trying again may help; git has no codes for it, so its words (in English, LC_ALL=C) must do."""
    words = errors.lower()
    last = redact(errors.strip().splitlines()[-1] if errors.strip() else "git said nothing")
    where = redact(repository)
    if any(phrase in words for phrase in _REFUSED):
        return NotFound(f"{where} does not exist, or may not be read: {last}", hint="private repositories need a key")
    if any(phrase in words for phrase in _MISSING):
        return NotFound(f"there is no repository at {where}: {last}")
    return Unavailable(f"{where} cannot be reached: {last}")
