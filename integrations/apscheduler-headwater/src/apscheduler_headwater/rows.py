"""Tasks, schedules, jobs and results as values of keys, and where the keys are.

(space, "task", id)                       task
(space, "schedule", id)                   schedule
(space, "due", next fire time, id)        None: the schedules in the order in which they are due
(space, "waiting", created at, id)        a job that no scheduler has acquired
(space, "acquired", until, id)            a job that one has: the first lease to end comes first
(space, "job", id)                        the key of the job
(space, "result", job id)                 result; it expires by itself
"""

from datetime import UTC, datetime, timedelta
from enum import Enum
from typing import Any, Final
from uuid import UUID

from apscheduler import Job, JobResult, Schedule, Task
from apscheduler.abc import Serializer

Key = tuple[Any, ...]
Row = dict[str, Any]

NEVER: Final = datetime(9999, 12, 31, tzinfo=UTC)
"""The time under which a schedule without a next fire time is found: behind all others."""


class Layout:
    """The keys of a space."""

    def __init__(self, space: str) -> None:
        self.space = space

    def all_of(self, kind: str) -> Key:
        """The prefix of one kind."""
        return self.space, kind

    def task(self, task_id: str) -> Key:
        return self.space, "task", task_id

    def schedule(self, schedule_id: str) -> Key:
        return self.space, "schedule", schedule_id

    def due(self, at: datetime | None, schedule_id: str) -> Key:
        return self.space, "due", at or NEVER, schedule_id

    def job_index(self, job_id: UUID) -> Key:
        return self.space, "job", job_id

    def job(self, row: Row) -> Key:
        """Where a job is: by its lease, or by its age if it has none."""
        if row.get("acquired_until") is not None:
            return self.space, "acquired", row["acquired_until"], row["id"]
        return self.space, "waiting", row["created_at"], row["id"]

    def result(self, job_id: UUID) -> Key:
        return self.space, "result", job_id


def row_of(item: Task | Schedule | Job | JobResult, serializer: Serializer) -> Row:
    """An item as a value of Headwater. Durations become seconds, and enumerations their names."""
    return {name: _plain(value) for name, value in item.marshal(serializer).items()}


def _plain(value: Any) -> Any:
    if isinstance(value, timedelta):
        return value.total_seconds()
    if isinstance(value, Enum):
        return value.name
    return value
