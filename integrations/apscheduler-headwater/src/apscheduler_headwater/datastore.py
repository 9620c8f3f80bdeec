"""The data store: each method is one transaction.

A scheduler holds what it has acquired by a lease. A release or an extension by one that no longer
holds the lease changes nothing, so a scheduler that was suspended cannot undo the work of the one
that took over. Leases end by the clock of the scheduler that looks, as APScheduler defines it.

Events are published after the commit, so nobody hears of what did not happen.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta
from logging import Logger
from typing import Any, TypeVar
from uuid import UUID

import attrs
from apscheduler import (
    ConflictingIdError,
    ConflictPolicy,
    DeserializationError,
    Event,
    Job,
    JobAcquired,
    JobAdded,
    JobOutcome,
    JobReleased,
    JobResult,
    Schedule,
    ScheduleAdded,
    ScheduleRemoved,
    ScheduleUpdated,
    SerializationError,
    Task,
    TaskAdded,
    TaskLookupError,
    TaskRemoved,
    TaskUpdated,
)
from apscheduler._structures import ScheduleResult
from apscheduler.abc import EventBroker
from apscheduler.datastores.base import BaseExternalDataStore

import headwater
from apscheduler_headwater.connection import connected
from apscheduler_headwater.rows import NEVER, Key, Layout, Row, row_of

T = TypeVar("T")
Tx = headwater.Transaction


@attrs.define(eq=False, repr=False)
class HeadwaterDataStore(BaseExternalDataStore):
    """Tasks, schedules, jobs and results in a Headwater database.

    Args:
        database: a URL, or an open database of the same event loop, which stays open.
        space: the first member of all keys. Stores with different spaces share a server.
        options: arguments of `headwater.connect`, if the database is a URL.
        serializer: of triggers, arguments and results. The default is pickle.
        start_from_scratch: delete all keys of the space at the start.
    """

    database: str | headwater.Database = attrs.field(default="headwater://localhost:4323")
    space: str = attrs.field(default="apscheduler", kw_only=True)
    options: dict[str, Any] = attrs.field(factory=dict, kw_only=True)
    _db: headwater.Database = attrs.field(init=False)
    _at: Layout = attrs.field(init=False)

    def __repr__(self) -> str:
        return f"HeadwaterDataStore(space={self.space!r})"

    async def start(
        self, exit_stack: AsyncExitStack, event_broker: EventBroker, logger: Logger
    ) -> None:
        await super().start(exit_stack, event_broker, logger)
        self._at = Layout(self.space)
        self._db = await connected(self.database, self.options, exit_stack)
        if self.start_from_scratch:
            await self._db.delete_range((self.space,))

    async def _run(self, work: Callable[[Tx, list[Event]], Awaitable[T]]) -> T:
        """Run *work* in a transaction, then publish the events that it lists."""

        async def whole(tx: Tx) -> tuple[T, list[Event]]:
            events: list[Event] = []
            return await work(tx, events), events

        result, events = await self._db.run(whole)
        for event in events:
            await self._event_broker.publish(event)
        return result

    # Tasks.

    async def add_task(self, task: Task) -> None:
        async def work(tx: Tx, events: list[Event]) -> None:
            key = self._at.task(task.id)
            old = await tx.get(key)
            row = row_of(task, self.serializer)
            if old is not None:
                row["running_jobs"] = old["running_jobs"]
            tx.put(key, row)
            task.running_jobs = row["running_jobs"]
            kind = TaskAdded if old is None else TaskUpdated
            events.append(kind(task_id=task.id))

        await self._run(work)

    async def remove_task(self, task_id: str) -> None:
        async def work(tx: Tx, events: list[Event]) -> None:
            if await tx.get(self._at.task(task_id)) is None:
                raise TaskLookupError(task_id)
            tx.delete(self._at.task(task_id))
            events.append(TaskRemoved(task_id=task_id))

        await self._run(work)

    async def get_task(self, task_id: str) -> Task:
        row = await self._db.get(self._at.task(task_id))
        if row is None:
            raise TaskLookupError(task_id)
        return Task.unmarshal(self.serializer, row)

    async def get_tasks(self) -> list[Task]:
        rows = self._db.scan(self._at.all_of("task"))
        return [Task.unmarshal(self.serializer, row) async for _, row in rows]

    # Schedules.

    async def get_schedules(self, ids: set[str] | None = None) -> list[Schedule]:
        if ids is not None:
            rows = await self._db.get_many([self._at.schedule(each) for each in sorted(ids)])
        else:
            rows = [row async for _, row in self._db.scan(self._at.all_of("schedule"))]
        found = (self._schedule(row) for row in rows if row is not None)
        return sorted(each for each in found if each is not None)

    def _schedule(self, row: Row) -> Schedule | None:
        """A schedule, or None if this process cannot deserialize it, which is logged."""
        try:
            return Schedule.unmarshal(self.serializer, dict(row))
        except DeserializationError:
            self._logger.exception("Failed to deserialize schedule %r", row["id"])
            return None

    async def add_schedule(self, schedule: Schedule, conflict_policy: ConflictPolicy) -> None:
        async def work(tx: Tx, events: list[Event]) -> None:
            old = await tx.get(self._at.schedule(schedule.id))
            if old is not None:
                if conflict_policy is ConflictPolicy.do_nothing:
                    return
                if conflict_policy is ConflictPolicy.exception:
                    raise ConflictingIdError(schedule.id)  # type: ignore[no-untyped-call]
            self._put_schedule(tx, row_of(schedule, self.serializer), old)
            kind = ScheduleAdded if old is None else ScheduleUpdated
            events.append(
                kind(
                    schedule_id=schedule.id,
                    task_id=schedule.task_id,
                    next_fire_time=schedule.next_fire_time,
                )
            )

        await self._run(work)

    def _put_schedule(self, tx: Tx, row: Row, old: Row | None) -> None:
        if old is not None:
            tx.delete(self._at.due(old["next_fire_time"], old["id"]))
        tx.put(self._at.schedule(row["id"]), row)
        tx.put(self._at.due(row["next_fire_time"], row["id"]), None)

    async def remove_schedules(self, ids: Iterable[str], *, finished: bool = False) -> None:
        wanted = [*ids]

        async def work(tx: Tx, events: list[Event]) -> None:
            for schedule_id in wanted:
                await self._remove_schedule(tx, events, schedule_id, finished=finished)

        await self._run(work)

    async def _remove_schedule(
        self, tx: Tx, events: list[Event], schedule_id: str, *, finished: bool
    ) -> None:
        row = await tx.get(self._at.schedule(schedule_id))
        if row is None:
            return
        tx.delete(self._at.schedule(schedule_id))
        tx.delete(self._at.due(row["next_fire_time"], schedule_id))
        events.append(
            ScheduleRemoved(schedule_id=schedule_id, task_id=row["task_id"], finished=finished)
        )

    async def acquire_schedules(
        self, scheduler_id: str, lease_duration: timedelta, limit: int
    ) -> list[Schedule]:
        async def work(tx: Tx, events: list[Event]) -> list[Schedule]:
            del events
            now = datetime.now(UTC)
            found: list[Schedule] = []
            due = self._at.all_of("due")
            # A tuple sorts behind its prefix, so the end includes what is due at this microsecond.
            end = (*due, now + timedelta(microseconds=1))
            async for key in tx.scan(start=due, end=end, values=False):
                row = await tx.get(self._at.schedule(str(key[3])))
                if row is None or row["paused"] or _is_held(row, scheduler_id, now):
                    continue
                schedule = self._schedule(row)
                if schedule is None:
                    continue
                row["acquired_by"] = schedule.acquired_by = scheduler_id
                row["acquired_until"] = schedule.acquired_until = now + lease_duration
                tx.put(self._at.schedule(schedule.id), row)
                found.append(schedule)
                if len(found) == limit:
                    break
            return found

        return await self._run(work)

    async def release_schedules(self, scheduler_id: str, results: Sequence[ScheduleResult]) -> None:
        async def work(tx: Tx, events: list[Event]) -> None:
            for result in results:
                old = await tx.get(self._at.schedule(result.schedule_id))
                # Removed or taken over meanwhile: the lease had ended.
                if old is None or old.get("acquired_by") != scheduler_id:
                    continue
                try:
                    trigger = self.serializer.serialize(result.trigger)
                except SerializationError:
                    self._logger.exception(
                        "Error serializing the trigger of schedule %r, which is removed",
                        result.schedule_id,
                    )
                    await self._remove_schedule(tx, events, result.schedule_id, finished=True)
                    continue
                row = old | {
                    "trigger": trigger,
                    "last_fire_time": result.last_fire_time,
                    "next_fire_time": result.next_fire_time,
                    "acquired_by": None,
                    "acquired_until": None,
                }
                self._put_schedule(tx, row, old)
                events.append(
                    ScheduleUpdated(
                        schedule_id=result.schedule_id,
                        task_id=result.task_id,
                        next_fire_time=result.next_fire_time,
                    )
                )

        await self._run(work)

    async def get_next_schedule_run_time(self) -> datetime | None:
        async for key in self._db.scan(self._at.all_of("due"), values=False, limit=1):
            return key[2] if isinstance(key[2], datetime) and key[2] != NEVER else None
        return None

    async def extend_acquired_schedule_leases(
        self, scheduler_id: str, schedule_ids: set[str], duration: timedelta
    ) -> None:
        async def work(tx: Tx, events: list[Event]) -> None:
            del events
            for schedule_id in sorted(schedule_ids):
                row = await tx.get(self._at.schedule(schedule_id))
                if row is not None and row.get("acquired_by") == scheduler_id:
                    row["acquired_until"] = datetime.now(UTC) + duration
                    tx.put(self._at.schedule(schedule_id), row)

        await self._run(work)

    # Jobs.

    async def add_job(self, job: Job) -> None:
        row = row_of(job, self.serializer)

        async def work(tx: Tx, events: list[Event]) -> None:
            self._put_job(tx, row)
            events.append(JobAdded(job_id=job.id, task_id=job.task_id, schedule_id=job.schedule_id))

        await self._run(work)

    def _put_job(self, tx: Tx, row: Row, old: Key | None = None) -> None:
        if old is not None:
            tx.delete(old)
        key = self._at.job(row)
        tx.put(key, row)
        tx.put(self._at.job_index(row["id"]), list(key))

    async def _find_job(self, tx: Tx, job_id: UUID) -> tuple[Key, Row] | None:
        place = await tx.get(self._at.job_index(job_id))
        if place is None:
            return None
        key = tuple(place)
        return key, await tx.get(key)

    async def get_jobs(self, ids: Iterable[UUID] | None = None) -> list[Job]:
        wanted = None if ids is None else {*ids}

        async def work(tx: Tx, events: list[Event]) -> list[Row]:
            del events
            if wanted is None:
                return [row async for _, row in self._all_jobs(tx)]
            found = [await self._find_job(tx, job_id) for job_id in wanted]
            return [each[1] for each in found if each is not None]

        jobs = []
        for row in sorted(await self._run(work), key=lambda row: row["created_at"]):
            try:
                jobs.append(Job.unmarshal(self.serializer, row))
            except DeserializationError:
                self._logger.exception("Failed to deserialize job %s", row["id"])
        return jobs

    async def _all_jobs(self, tx: Tx) -> AsyncIterator[tuple[Key, Row]]:
        for kind in ("acquired", "waiting"):
            async for key, row in tx.scan(self._at.all_of(kind)):
                yield key, row

    async def acquire_jobs(
        self, scheduler_id: str, lease_duration: timedelta, limit: int | None = None
    ) -> list[Job]:
        async def work(tx: Tx, events: list[Event]) -> list[Job]:
            now = datetime.now(UTC)
            jobs: list[Job] = []
            async for key, row in self._available_jobs(tx, now):
                if len(jobs) == limit:
                    break
                job = await self._acquired(tx, events, key, row, scheduler_id, now)
                if job is None:
                    continue
                job.acquired_by, job.acquired_until = scheduler_id, now + lease_duration
                row |= {"acquired_by": scheduler_id, "acquired_until": job.acquired_until}
                self._put_job(tx, row, key)
                jobs.append(job)
                events.append(JobAcquired.from_job(job, scheduler_id=scheduler_id))
            return jobs

        return await self._run(work)

    async def _available_jobs(self, tx: Tx, now: datetime) -> AsyncIterator[tuple[Key, Row]]:
        """Jobs whose lease has ended, then those that wait, the oldest first."""
        prefix = self._at.all_of("acquired")
        async for key, row in tx.scan(start=prefix, end=(*prefix, now)):
            yield key, row
        async for key, row in tx.scan(self._at.all_of("waiting")):
            yield key, row

    async def _acquired(
        self, tx: Tx, events: list[Event], key: Key, row: Row, scheduler_id: str, now: datetime
    ) -> Job | None:
        """A job that may start now, counted as running. None if it must wait or was discarded."""
        was_running = row.get("acquired_until") is not None
        try:
            job = Job.unmarshal(self.serializer, dict(row))
        except DeserializationError as error:
            result = _discarded(row, JobOutcome.deserialization_failed, now, error)
        else:
            if job.start_deadline is None or job.start_deadline >= now:
                return job if await self._may_start(tx, row, was_running=was_running) else None
            result = _discarded(row, JobOutcome.missed_start_deadline, now)
        await self._release(tx, events, scheduler_id, key, row, result)
        return None

    async def _may_start(self, tx: Tx, row: Row, *, was_running: bool) -> bool:
        if was_running:
            return True  # It takes over the place of its former run.
        task = await tx.get(self._at.task(row["task_id"]))
        if task is None:
            return False
        most = task["max_running_jobs"]
        if most is not None and task["running_jobs"] >= most:
            self._logger.debug(
                "Skipping job %s because task %r has the maximum number of %d jobs running",
                row["id"],
                row["task_id"],
                most,
            )
            return False
        tx.put(self._at.task(row["task_id"]), task | {"running_jobs": task["running_jobs"] + 1})
        return True

    async def release_job(self, scheduler_id: str, job: Job, result: JobResult) -> None:
        async def work(tx: Tx, events: list[Event]) -> None:
            found = await self._find_job(tx, job.id)
            if found is None or found[1].get("acquired_by") not in (None, scheduler_id):
                self._logger.warning(
                    "Job %s was taken over or removed; the result of %s is dropped",
                    job.id,
                    scheduler_id,
                )
                return
            await self._release(tx, events, scheduler_id, *found, result)

        await self._run(work)

    async def _release(
        self,
        tx: Tx,
        events: list[Event],
        scheduler_id: str,
        key: Key,
        row: Row,
        result: JobResult,
    ) -> None:
        """Remove a job, and keep its result for as long as it says."""
        kept = result.expires_at - result.finished_at
        if kept > timedelta():
            tx.put(self._at.result(row["id"]), row_of(result, self.serializer), ttl=kept)
        if row.get("acquired_until") is not None:
            task = await tx.get(self._at.task(row["task_id"]))
            if task is not None:
                running = max(0, task["running_jobs"] - 1)
                tx.put(self._at.task(row["task_id"]), task | {"running_jobs": running})
        tx.delete(key)
        tx.delete(self._at.job_index(row["id"]))
        events.append(
            JobReleased.from_result(
                result,
                scheduler_id,
                row["task_id"],
                row["schedule_id"],
                row["scheduled_fire_time"],
            )
        )

    async def get_job_result(self, job_id: UUID) -> JobResult | None:
        row = await self._db.pop(self._at.result(job_id))
        return None if row is None else JobResult.unmarshal(self.serializer, row)

    async def extend_acquired_job_leases(
        self, scheduler_id: str, job_ids: set[UUID], duration: timedelta
    ) -> None:
        async def work(tx: Tx, events: list[Event]) -> None:
            del events
            for job_id in sorted(job_ids):
                found = await self._find_job(tx, job_id)
                if found is not None and found[1].get("acquired_by") == scheduler_id:
                    key, row = found
                    row["acquired_until"] = datetime.now(UTC) + duration
                    self._put_job(tx, row, key)

        await self._run(work)

    async def reap_abandoned_jobs(self, scheduler_id: str) -> None:
        async def work(tx: Tx, events: list[Event]) -> None:
            now = datetime.now(UTC)
            async for key, row in tx.scan(self._at.all_of("acquired")):
                if row["acquired_by"] == scheduler_id:
                    await self._abandon(tx, events, key, row, now)

        await self._run(work)

    async def _abandon(
        self, tx: Tx, events: list[Event], key: Key, row: Row, now: datetime
    ) -> None:
        result = _discarded(row, JobOutcome.abandoned, now)
        await self._release(tx, events, row["acquired_by"], key, row, result)

    async def cleanup(self) -> None:
        async def work(tx: Tx, events: list[Event]) -> None:
            now = datetime.now(UTC)
            async for key, row in tx.scan(self._at.all_of("result")):
                # The server deletes them by its own clock; this is for the clock of the scheduler.
                if row["expires_at"] <= now:
                    tx.delete(key)
            ended = self._at.all_of("acquired")
            async for key, row in tx.scan(start=ended, end=(*ended, now)):
                await self._abandon(tx, events, key, row, now)
            finished = tx.scan((*self._at.all_of("due"), NEVER), values=False)
            ids = [str(key[3]) async for key in finished]
            if ids:
                busy = {row["schedule_id"] async for _, row in self._all_jobs(tx)}
                for schedule_id in ids:
                    if schedule_id not in busy:
                        await self._remove_schedule(tx, events, schedule_id, finished=True)

        await self._run(work)


def _is_held(row: Row, scheduler_id: str, now: datetime) -> bool:
    """Whether another scheduler has the lease of a schedule."""
    until = row.get("acquired_until")
    return until is not None and row["acquired_by"] != scheduler_id and now <= until


def _discarded(
    row: Row, outcome: JobOutcome, now: datetime, error: BaseException | None = None
) -> JobResult:
    """The result of a job that did not run to its end."""
    return JobResult(
        job_id=row["id"],
        outcome=outcome,
        finished_at=now,
        expires_at=now + timedelta(seconds=row["result_expiration_time"]),
        exception=error,
    )
