"""What every model shares: frozen, strict about unknown keys, camelCase on the wire and snake_case here."""

from __future__ import annotations

from typing import Any, Self

from pydantic import BaseModel, ConfigDict
from pydantic.alias_generators import to_camel

API_VERSION = "kat.dws.rip/v1alpha1"


class Model(BaseModel):
    """Base of the vocabulary: immutable, refuses unknown keys, reads and writes camelCase JSON."""

    model_config = ConfigDict(frozen=True, extra="forbid", alias_generator=to_camel, populate_by_name=True)

    def to_wire(self) -> dict[str, Any]:
        """Give the JSON form: camelCase keys; a field that holds its default ``None`` is left out."""
        return self.model_dump(mode="json", by_alias=True, exclude_none=True)

    def to_json(self) -> bytes:
        """Give :meth:`to_wire` as UTF-8 JSON bytes, the form values have in the store."""
        return self.model_dump_json(by_alias=True, exclude_none=True).encode()

    @classmethod
    def from_json(cls, data: bytes | str) -> Self:
        """Read what :meth:`to_json` wrote, maybe that of a newer version, whose additions are left out.

        For what KAT itself wrote: users' documents are read strictly. Raises pydantic's ``ValidationError``.
        """
        return cls.model_validate_json(data, extra="ignore")

    @classmethod
    def from_peer(cls, data: Any) -> Self:
        """Read what another part of KAT sent, as :meth:`from_json` does."""
        return cls.model_validate(data, extra="ignore")
