"""Where a workload's image comes from: a registry or the node itself, or a build of a git repository."""

from __future__ import annotations

import re
from typing import Annotated, Final, Literal, Self
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, model_validator

from kat_platform.errors import InvalidValue
from kat_platform.model.base import Model
from kat_platform.model.faults import Fault, exactly_one, refuse
from kat_platform.model.image import Image, ImageRepository

DEFAULT_BRANCH: Final = "main"
_SCP_LIKE: Final = re.compile(r"(?:[A-Za-z0-9_.][\w.-]*@)?[A-Za-z0-9][A-Za-z0-9.-]*:(?![/:])[^\s:-][^\s:]*")
_REF_FORBIDDEN: Final = re.compile(r"[\x00-\x20\x7f~^:?*\[\\]|\.\.|@\{|//")


def check_repository_url(text: str) -> str:
    """Check where a repository is cloned from: https, http, ssh or git URL, or ``user@host:path``.

    Everything else is refused: git would take an option for one beginning with ``-`` and run a command for ``ext::``.
    A password in the URL is refused too, since it would be shown with the workload.
    """
    if re.search(r"[\x00-\x20\x7f]", text) or text.startswith("-"):
        raise InvalidValue("a repository's address has no spaces and does not begin with '-'")
    if "://" not in text:
        if _SCP_LIKE.fullmatch(text):
            return text
        raise InvalidValue(f"'{text}' is not a repository's address: write https://HOST/PATH or USER@HOST:PATH")
    try:
        parts = urlsplit(text)
        valid = bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:
        raise InvalidValue("the repository's address is not a valid URL") from None
    if parts.password is not None:
        raise InvalidValue("the repository's address carries a password: it would be visible to all readers")
    if parts.scheme not in ("https", "http", "ssh", "git") or not valid or (parts.hostname or "").startswith("-"):
        raise InvalidValue(f"'{text}' is not a repository's address: write https://HOST/PATH or USER@HOST:PATH")
    return text


def check_ref(text: str) -> str:
    """Check a branch's or tag's name (the rules of ``git check-ref-format``, and no ``-`` first)."""
    parts = text.split("/")
    bad = not text or text.startswith("-") or text.endswith((".", "/")) or text == "@" or _REF_FORBIDDEN.search(text)
    if bad or any(part.startswith(".") or part.endswith(".lock") or not part for part in parts):
        raise InvalidValue(f"'{text}' is not a valid name of a branch or tag")
    return text


def check_commit(text: str) -> str:
    """Check a commit: 7 to 64 hexadecimal digits."""
    if not re.fullmatch(r"[0-9a-f]{7,64}", text):
        raise InvalidValue(f"'{text[:80]}' is not a commit: 7 to 64 of 0-9a-f")
    return text


class GitSource(Model):
    """A repository whose Dockerfile KAT builds; at most one of branch, tag and commit."""

    repository: Annotated[str, AfterValidator(check_repository_url)] = Field(
        description="Address to clone from: https://, ssh://, http://, git:// or USER@HOST:PATH."
    )
    branch: Annotated[str, AfterValidator(check_ref)] | None = Field(
        default=None, description="Branch to build; main where neither branch, tag nor commit is given."
    )
    tag: Annotated[str, AfterValidator(check_ref)] | None = Field(default=None, description="Tag to build.")
    commit: Annotated[str, AfterValidator(check_commit)] | None = Field(default=None, description="Commit to build.")
    cache_image: ImageRepository | None = Field(
        default=None, description="Repository the built image is pushed to, without tag, so that other nodes pull it."
    )

    @property
    def reference(self) -> tuple[Literal["branch", "tag", "commit"], str]:
        """What to check out, and which of the three it is."""
        if self.commit is not None:
            return "commit", self.commit
        if self.tag is not None:
            return "tag", self.tag
        return "branch", self.branch or DEFAULT_BRANCH

    @model_validator(mode="after")
    def _check(self) -> Self:
        given = [name for name in ("branch", "tag", "commit") if getattr(self, name) is not None]
        if len(given) > 1:
            refuse([Fault((given[1],), f"at most one of branch, tag, commit may be given, not {' and '.join(given)}")])
        return self


class Source(Model):
    """Exactly one of ``image`` and ``git``."""

    image: Image | None = Field(default=None, description="Image to run: [registry/]repository[:tag][@digest].")
    git: GitSource | None = Field(default=None, description="Repository to build the image from.")

    @model_validator(mode="after")
    def _check(self) -> Self:
        refuse(exactly_one((), {"image": self.image is not None, "git": self.git is not None}))
        return self
