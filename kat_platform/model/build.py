"""BuildDefinition: how the image of a workload with ``source.git`` is built."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from kat_platform.errors import InvalidValue
from kat_platform.model.base import Model
from kat_platform.model.image import ImageRepository
from kat_platform.model.meta import Document
from kat_platform.model.scalars import EnvName, Positive, RelativePath, Text


def check_platform(text: str) -> str:
    """Check a platform: ``OS/ARCHITECTURE[/VARIANT]``."""
    if not re.fullmatch(r"[a-z0-9]+/[a-z0-9_]+(/[a-z0-9.]+)?", text):
        raise InvalidValue(f"'{text[:60]}' is not a platform: write it like linux/amd64 or linux/arm/v7")
    return text


def check_stage(text: str) -> str:
    """Check the name or number of a stage of a Dockerfile."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}", text):
        raise InvalidValue(f"'{text[:60]}' is not a stage's name: letters, digits and . _ -")
    return text


class BuildCache(Model):
    """Where layers of earlier builds are kept."""

    registry_path: ImageRepository = Field(description="Repository, without tag, that holds the cache.")


class BuildDefinitionSpec(Model):
    """What is built, from which folder, and for how long at most."""

    build_context: RelativePath = Field(default=".", description="Folder of the repository that is sent to the build.")
    dockerfile_path: RelativePath = Field(default="Dockerfile", description="Dockerfile, relative to the repository.")
    build_args: Mapping[EnvName, Text] = Field(default_factory=dict, description="Values of the Dockerfile's ARGs.")
    target_stage: Annotated[str, AfterValidator(check_stage)] | None = Field(
        default=None, description="Stage to build; by default the last."
    )
    platform: Annotated[str, AfterValidator(check_platform)] | None = Field(
        default=None, description="Platform to build for, such as linux/arm64; by default that of the building node."
    )
    cache: BuildCache | None = Field(default=None, description="Where layers of earlier builds are kept.")
    timeout_seconds: Positive = Field(default=1800, description="Seconds after which the build has failed.")


class BuildDefinition(Document):
    """How the image of the workload described beside it is built."""

    kind: Literal["BuildDefinition"] = Field(default="BuildDefinition", description="Kind of the document.")
    spec: BuildDefinitionSpec = Field(default=BuildDefinitionSpec(), description="What is built.")
