"""Namespace: a room for workloads, with a quota and, if wished, walls."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from kat_platform.model.base import Model
from kat_platform.model.meta import Document
from kat_platform.model.quantity import Cpu, Memory
from kat_platform.model.scalars import Whole


class Quota(Model):
    """The most that all workloads of a namespace may ask for together; what is absent is not limited."""

    cpu: Cpu | None = Field(default=None, description="CPU requested together.")
    memory: Memory | None = Field(default=None, description="Memory requested together.")
    instances: Whole | None = Field(default=None, description="Number of instances.")


class NamespaceSpec(Model):
    """Quota and isolation."""

    quota: Quota | None = Field(default=None, description="The most that its workloads may ask for together.")
    isolation: Literal["Open", "Private"] = Field(
        default="Open", description="Private: only the same namespace, and ingress, may connect to its instances."
    )


class Namespace(Document):
    """A room for workloads; the namespace ``default`` exists by itself."""

    namespaced: ClassVar[bool] = False

    kind: Literal["Namespace"] = Field(default="Namespace", description="Kind of the document.")
    spec: NamespaceSpec = Field(default=NamespaceSpec(), description="Quota and isolation.")
