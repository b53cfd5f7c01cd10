"""VolumeDefinition: storage with a name and a life of its own, for workloads of its namespace."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from kat_platform.model.base import Model
from kat_platform.model.meta import Document
from kat_platform.model.quantity import Memory
from kat_platform.model.scalars import Flag


class VolumeDefinitionSpec(Model):
    """What kind of storage it is, and whether it outlives its users."""

    type: Literal["SimpleClusterStorage", "HostMount"] = Field(
        default="SimpleClusterStorage", description="A folder kept on one node, or a path of the node itself."
    )
    size: Memory | None = Field(
        default=None, description="Size, such as 10Gi: advice, unless the volume's driver enforces it."
    )
    retain: Flag = Field(default=True, description="Whether the data is kept when the definition is deleted.")


class VolumeDefinition(Document):
    """Storage that workloads refer to by name."""

    kind: Literal["VolumeDefinition"] = Field(default="VolumeDefinition", description="Kind of the document.")
    spec: VolumeDefinitionSpec = Field(default=VolumeDefinitionSpec(), description="Kind, size and retention.")
