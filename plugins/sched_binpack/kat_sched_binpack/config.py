"""What a cluster may set under ``pluginConfig.binpack``: the weights of the scores, and when to stop looking."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from kat_platform.model.base import Model

Weight = Annotated[float, Field(ge=0, le=1000, allow_inf_nan=False)]


class BinpackConfig(Model):
    """Weights of the scores (each score is 0 to 100 before it is weighted) and limits of the search."""

    packing: Weight = Field(default=1.0, description="How much a fuller node is preferred.")
    spreading: Weight = Field(
        default=1.5, description="How much a node with fewer instances of the same workload is preferred."
    )
    preferred: Weight = Field(default=2.0, description="How much preferred affinity rules count.")
    image: Weight = Field(default=0.25, description="How much a node that already has the image is preferred.")
    prefer_no_schedule: Weight = Field(
        default=3.0, description="How much a node with an untolerated PreferNoSchedule taint is avoided."
    )
    preemption: bool = Field(
        default=True, description="Whether an instance that fits nowhere may take the place of one of lower priority."
    )
    preemption_candidates: int = Field(
        default=100, ge=1, le=100_000, description="How many nodes are looked at closely for one preemption."
    )
    even_nodes: int = Field(
        default=8, ge=1, description="From how many empty nodes on that a batch has to open it fills them evenly."
    )
    vector_nodes: int = Field(
        default=300, ge=0, description="From how many nodes on vectors are used (this loads NumPy, about 12 MiB)."
    )
