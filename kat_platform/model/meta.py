"""What every document a user writes has: apiVersion, kind, metadata."""

from __future__ import annotations

from typing import ClassVar, Final, Literal, Self

from pydantic import Field, model_validator

from kat_platform.model.base import Model
from kat_platform.model.faults import Fault, refuse
from kat_platform.model.scalars import Annotations, Labels, Name

DEFAULT_NAMESPACE: Final = "default"

RESERVED_NAMESPACES: Final = {"node": "NODE.node.DOMAIN are the names of nodes, where WORKLOAD.node.DOMAIN would be"}
"""Namespaces nobody can have, and why: their workloads would have the DNS names of something else."""


class Metadata(Model):
    """A document's name, where it lies, and what is noted about it."""

    name: Name = Field(description="Name of the object: a DNS-1123 label, 1 to 63 characters.")
    namespace: Name = Field(default=DEFAULT_NAMESPACE, description="Namespace the object lies in.")
    labels: Labels = Field(default_factory=dict, description="Keys and values by which objects are selected.")
    annotations: Annotations = Field(
        default_factory=dict, description="Keys and free text for people and tools; KAT does not act on them."
    )


class Document(Model):
    """Base of the documents: a subclass narrows ``kind`` and adds ``spec``."""

    namespaced: ClassVar[bool] = True
    """Whether the kind lies in a namespace; where not, ``metadata.namespace`` must be left alone."""

    api_version: Literal["kat.dws.rip/v1alpha1"] = Field(
        default="kat.dws.rip/v1alpha1", description="Version of the vocabulary the document is written in."
    )
    kind: str
    metadata: Metadata = Field(description="Name, namespace, labels and annotations.")

    @model_validator(mode="after")
    def _check_scope(self) -> Self:
        if not self.namespaced and self.metadata.namespace != DEFAULT_NAMESPACE:
            refuse([Fault(("metadata", "namespace"), f"a {self.kind} lies in no namespace: remove this line")])
        if self.namespaced:
            _check_reserved(("metadata", "namespace"), self.metadata.namespace)
        elif self.kind == "Namespace":
            _check_reserved(("metadata", "name"), self.metadata.name)
        return self


def _check_reserved(path: tuple[str, ...], namespace: str) -> None:
    if namespace in RESERVED_NAMESPACES:
        reason = RESERVED_NAMESPACES[namespace]
        refuse([Fault(path, f"a namespace cannot be called '{namespace}': {reason}; choose another name")])
