"""What to ask of a repository, and how to read its answer; pure."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final
from urllib.parse import urlsplit

from kat_platform.errors import InvalidInput, NotFound
from kat_platform.interfaces.builder import GitSource

_COMMIT: Final = re.compile(r"[0-9a-f]{40}([0-9a-f]{24})?")
_SCP: Final = re.compile(r"([A-Za-z0-9._-]+@)?[A-Za-z0-9][A-Za-z0-9.-]*:(?![/:])[^\s:]+")
"""The short form of an SSH address, ``git@host:path`` (git-clone(1), "Git URLs")."""
_NAME: Final = re.compile(r"(?![-/.])[^\s~^:?*\[\\\x00-\x1f\x7f]+(?<![/.])")
"""What a branch or tag may be called (git-check-ref-format(1), shortened to what a person would use)."""


def protocol_of(repository: str) -> str:
    """Tell by which protocol git would reach a repository; raises ``InvalidInput`` for anything but an address.

    A local path, an option (``--upload-pack=...``) and a helper (``ext::...``) are not addresses.
    """
    parts = urlsplit(repository)
    if "://" in repository and parts.scheme and "::" not in repository.split("://")[0]:
        if repository.startswith("-") or any(character.isspace() for character in repository):
            raise InvalidInput(f"'{redact(repository)}' is not the address of a Git repository")
        return parts.scheme.lower()
    if _SCP.fullmatch(repository):
        return "ssh"
    raise InvalidInput(
        f"'{redact(repository)}' is not the address of a Git repository",
        hint="write it as https://HOST/PATH, ssh://HOST/PATH or git@HOST:PATH",
    )


def redact(text: str) -> str:
    """Hide user names and passwords of any address in a text: it may end in an error or a log."""
    return re.sub(r"(?<=://)[^/@\s]*@", "***@", text)[:500]


def wanted(source: GitSource) -> tuple[str, ...]:
    """Give the references to ask for, the best one first; empty when the source is a commit already."""
    given = [name for name in (source.branch, source.tag, source.commit) if name is not None]
    if len(given) != 1:
        raise InvalidInput(f"exactly one of branch, tag and commit must be given, not {len(given)}")
    if source.commit is not None:
        if not _COMMIT.fullmatch(source.commit):
            raise InvalidInput(f"'{source.commit[:80]}' is not a full commit id: 40 (or 64) hexadecimal digits")
        return ()
    name = given[0]
    if not _NAME.fullmatch(name) or ".." in name or "@{" in name:
        raise InvalidInput(f"'{name[:80]}' is not the name of a branch or tag")
    if source.branch is not None:
        return (f"refs/heads/{name}",)
    return f"refs/tags/{name}^{{}}", f"refs/tags/{name}"  # an annotated tag is an object of its own: take what it marks


def pick(output: str, references: Sequence[str], repository: str) -> str:
    """Find the commit in the output of ``git ls-remote``; raises ``NotFound``."""
    found = {name: commit for commit, _, name in (line.partition("\t") for line in output.splitlines())}
    for reference in references:
        commit = found.get(reference, "")
        if _COMMIT.fullmatch(commit):
            return commit
    kind, name = references[-1].split("/", 2)[1:]
    raise NotFound(f"{redact(repository)} has no {'branch' if kind == 'heads' else 'tag'} '{name}'")
