"""Secret: values that are never shown. Their text must not reach logs, errors or ``repr``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, Self

from pydantic import ConfigDict, Field, model_validator

from kat_platform.model.base import Model
from kat_platform.model.faults import Fault, refuse
from kat_platform.model.meta import Document
from kat_platform.model.scalars import LabelKey, RelativePath


class SecretSpec(Model):
    """The values: given as text, or read from files of the Quadlet."""

    model_config = ConfigDict(hide_input_in_errors=True)

    data: Mapping[LabelKey, str] = Field(default_factory=dict, repr=False, description="Values as text, by key.")
    files: Mapping[LabelKey, RelativePath] = Field(
        default_factory=dict, description="Values by key, each the content of a file of the Quadlet."
    )

    @model_validator(mode="after")
    def _check(self) -> Self:
        if not self.data and not self.files:
            refuse([Fault((), "a Secret needs data or files")])
        refuse(Fault(("files", key), f"key '{key}' is in data too") for key in self.files if key in self.data)
        return self


class Secret(Document):
    """Values that are encrypted where they are stored, and handed only to nodes that run a user of them."""

    model_config = ConfigDict(hide_input_in_errors=True)

    kind: Literal["Secret"] = Field(default="Secret", description="Kind of the document.")
    spec: SecretSpec = Field(description="The values.")
