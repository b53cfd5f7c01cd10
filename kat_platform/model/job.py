"""JobDefinition: how often and how parallel a workload of type Job runs, and on which schedule."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from kat_platform.errors import InvalidValue
from kat_platform.model.base import Model
from kat_platform.model.cron import CronSchedule, TimeZone
from kat_platform.model.faults import Fault, refuse
from kat_platform.model.meta import Document
from kat_platform.model.scalars import Flag, Positive, Whole


class JobHistory(Model):
    """How many finished runs are kept to look at."""

    succeeded: Whole = Field(default=3, description="Runs that succeeded.")
    failed: Whole = Field(default=3, description="Runs that failed.")


class JobDefinitionSpec(Model):
    """When a job runs, how many times it must succeed, and how hard it is tried."""

    schedule: str | None = Field(
        default=None, description="Five-field cron: minute hour day month weekday; absent: once, on apply."
    )
    time_zone: TimeZone = Field(default="UTC", description="Time zone of the schedule, such as Europe/Berlin.")
    completions: Positive = Field(default=1, description="Successes that make the run complete.")
    parallelism: Positive = Field(default=1, description="Instances at the same time, at most.")
    active_deadline_seconds: Positive | None = Field(
        default=None, description="Seconds after which a run is killed and has failed."
    )
    backoff_limit: Whole = Field(default=3, description="Failures a run survives before it has failed.")
    concurrency: Literal["Forbid", "Allow", "Replace"] = Field(
        default="Forbid", description="When the run before has not ended: skip, run beside it, or replace it."
    )
    starting_deadline_seconds: Positive | None = Field(
        default=None, description="Seconds a run may be late before its time slot is skipped."
    )
    history: JobHistory = Field(default=JobHistory(), description="How many finished runs are kept.")
    suspend: Flag = Field(default=False, description="Whether no new runs are started for now.")

    @property
    def cron(self) -> CronSchedule | None:
        """The schedule in its time zone, if there is one."""
        return None if self.schedule is None else CronSchedule.parse(self.schedule, self.time_zone)

    @model_validator(mode="after")
    def _check(self) -> Self:
        try:
            _ = self.cron
        except InvalidValue as error:
            refuse([Fault(("schedule",), str(error))])
        if self.schedule is None and self.time_zone != "UTC":
            refuse([Fault(("timeZone",), "timeZone has a meaning only with a schedule")])
        return self


class JobDefinition(Document):
    """How the job described beside it is run."""

    kind: Literal["JobDefinition"] = Field(default="JobDefinition", description="Kind of the document.")
    spec: JobDefinitionSpec = Field(default=JobDefinitionSpec(), description="When and how often.")
