"""Where a workload's instances may and should run: tolerations, affinity and spread."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from kat_platform.model.base import Model
from kat_platform.model.faults import Fault, refuse
from kat_platform.model.scalars import LabelKey, Labels, LabelValue, Positive, check_label_key


def check_topology_key(text: str) -> str:
    """Check a node label's key, or nothing, which is the node itself."""
    return check_label_key(text) if text else text


TopologyKey = Annotated[str, AfterValidator(check_topology_key)]


class Toleration(Model):
    """Lets instances onto nodes with a matching taint."""

    key: LabelKey | None = Field(default=None, description="Key of the taint; absent (with Exists) matches every key.")
    operator: Literal["Equal", "Exists"] = Field(
        default="Equal", description="Whether the taint's value must be equal, or the key is enough."
    )
    value: LabelValue | None = Field(default=None, description="Value of the taint, with Equal; absent is empty.")
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None = Field(
        default=None, description="Effect of the taint; absent matches every effect."
    )

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.operator == "Exists" and self.value is not None:
            refuse([Fault(("value",), "operator Exists looks at the key only: remove value, or use Equal")])
        if self.operator == "Equal" and self.key is None:
            refuse([Fault((), "operator Equal needs a key; to tolerate every taint use operator Exists")])
        return self


class AffinityTerm(Model):
    """Instances to be near to (or away from), and what counts as the same place."""

    labels: Labels = Field(min_length=1, description="Labels the other instances have, all of them.")
    topology_key: TopologyKey = Field(
        default="", description="Node label whose equal values are one place; by default the node itself."
    )


class WeightedAffinityTerm(AffinityTerm):
    """A wish: the higher its weight, the more it counts."""

    weight: Annotated[int, Field(strict=True, ge=1, le=100)] = Field(default=1, description="Weight, 1 to 100.")


class Affinity(Model):
    """Rules that must hold (required) and wishes (preferred)."""

    required: tuple[AffinityTerm, ...] = Field(default=(), description="Rules that must hold.")
    preferred: tuple[WeightedAffinityTerm, ...] = Field(default=(), description="Wishes, weighed against each other.")


class Spread(Model):
    """Keeps instances even over places."""

    topology_key: TopologyKey = Field(
        default="", description="Node label whose equal values are one place; by default the node itself."
    )
    max_skew: Positive = Field(default=1, description="How many instances more than the emptiest place one may have.")
