"""Every kind of document a user may write, by name."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final

from pydantic.json_schema import models_json_schema

from kat_platform.model.build import BuildDefinition
from kat_platform.model.cluster import ClusterConfiguration
from kat_platform.model.job import JobDefinition
from kat_platform.model.load_balancer import VirtualLoadBalancer
from kat_platform.model.meta import Document
from kat_platform.model.namespace import Namespace
from kat_platform.model.secret import Secret
from kat_platform.model.volume import VolumeDefinition
from kat_platform.model.workload import Workload

AnyDocument = (
    Workload
    | VirtualLoadBalancer
    | JobDefinition
    | BuildDefinition
    | VolumeDefinition
    | Namespace
    | Secret
    | ClusterConfiguration
)

KINDS: Final[Mapping[str, type[Document]]] = MappingProxyType(
    {
        "Workload": Workload,
        "VirtualLoadBalancer": VirtualLoadBalancer,
        "JobDefinition": JobDefinition,
        "BuildDefinition": BuildDefinition,
        "VolumeDefinition": VolumeDefinition,
        "Namespace": Namespace,
        "Secret": Secret,
        "ClusterConfiguration": ClusterConfiguration,
    }
)
"""The class of each kind."""


def json_schemas(ref_template: str = "#/components/schemas/{model}") -> dict[str, Any]:
    """Give the JSON schema of every kind and of all they consist of, by name, for an OpenAPI document."""
    _, definitions = models_json_schema(
        [(document, "validation") for document in KINDS.values()], by_alias=True, ref_template=ref_template
    )
    schemas: dict[str, Any] = definitions.get("$defs", {})
    return schemas
