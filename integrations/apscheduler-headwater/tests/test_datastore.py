"""What APScheduler's tests leave out: leases that were lost, several schedulers, expiry."""

import logging
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta
from typing import Any

import anyio
import pytest
import time_machine
from apscheduler import ConflictPolicy, Event, Job, JobOutcome, JobResult, Schedule, Task
from apscheduler._structures import ScheduleResult
from apscheduler.abc import DataStore, EventBroker
from apscheduler.triggers.interval import IntervalTrigger
from apscheduler_headwater import HeadwaterDataStore, HeadwaterEventBroker

import headwater
from headwater.cli.server_process import ServerProcess

pytestmark = pytest.mark.anyio

LEASE = timedelta(seconds=30)
START = datetime(2025, 1, 1, tzinfo=UTC)


@pytest.fixture
async def store(
    raw_datastore: HeadwaterDataStore, local_broker: EventBroker, logger: logging.Logger
) -> AsyncIterator[HeadwaterDataStore]:
    async with AsyncExitStack() as stack:
        await local_broker.start(stack, logger)
        await raw_datastore.start(stack, local_broker, logger)
        await raw_datastore.add_task(Task(id="t", func="builtins:print", job_executor="async"))
        yield raw_datastore


def job(**members: Any) -> Job:
    return Job(task_id="t", executor="async", result_expiration_time=timedelta(hours=1), **members)


def success(of: Job, value: object) -> JobResult:
    return JobResult.from_job(of, JobOutcome.success, return_value=value)


async def test_a_result_of_a_lost_lease_is_dropped(store: HeadwaterDataStore) -> None:
    await store.add_job(made := job())
    with time_machine.travel(START, tick=False) as clock:
        assert len(await store.acquire_jobs("slow", LEASE)) == 1
        clock.shift(31)
        (taken,) = await store.acquire_jobs("other", LEASE)
        await store.release_job("slow", made, success(made, "of the slow one"))
        assert await store.get_job_result(made.id) is None
        assert [each.acquired_by for each in await store.get_jobs()] == ["other"]
        assert (await store.get_task("t")).running_jobs == 1
        await store.extend_acquired_job_leases("slow", {made.id}, timedelta(days=1))
        await store.release_job("other", taken, success(taken, "of the other"))
        await store.release_job("slow", made, success(made, "of the slow one"))
    result = await store.get_job_result(made.id)
    assert result is not None
    assert result.return_value == "of the other"
    assert (await store.get_task("t")).running_jobs == 0


async def test_a_schedule_that_was_taken_over_is_not_set_back(store: HeadwaterDataStore) -> None:
    trigger = IntervalTrigger(minutes=1, start_time=START)
    made = Schedule(id="s", task_id="t", job_executor="async", trigger=trigger)
    made.next_fire_time = trigger.next()
    await store.add_schedule(made, ConflictPolicy.exception)

    def result(minutes: int) -> ScheduleResult:
        following = START + timedelta(minutes=minutes)
        return ScheduleResult(
            schedule_id="s",
            task_id="t",
            trigger=trigger,
            last_fire_time=START,
            next_fire_time=following,
        )

    with time_machine.travel(START, tick=False) as clock:
        assert len(await store.acquire_schedules("slow", LEASE, 1)) == 1
        clock.shift(31)
        (taken,) = await store.acquire_schedules("other", LEASE, 1)
        assert taken.trigger.next() == START + timedelta(minutes=1)
        trigger.next()
        await store.release_schedules("other", [result(2)])
        await store.release_schedules("slow", [result(1)])
        assert await store.get_next_schedule_run_time() == START + timedelta(minutes=2)
        clock.shift(100)
        (again,) = await store.acquire_schedules("slow", LEASE, 1)
    # The state of the trigger was stored with the release.
    assert again.trigger.next() == START + timedelta(minutes=2)


async def test_schedulers_together_acquire_each_job_once(
    server: ServerProcess, store: HeadwaterDataStore, logger: logging.Logger
) -> None:
    for _ in range(40):
        await store.add_job(job())
    acquired: list[Job] = []

    async def work(other: DataStore, name: str) -> None:
        while found := await other.acquire_jobs(name, LEASE, 3):
            acquired.extend(found)

    async with AsyncExitStack() as stack, anyio.create_task_group() as group:
        for number in range(3):
            other = HeadwaterDataStore(server.url, space=store.space)
            await other.start(stack, store._event_broker, logger)
            group.start_soon(work, other, f"scheduler {number}")
        await anyio.wait_all_tasks_blocked()
        async with anyio.create_task_group() as waiting:
            waiting.start_soon(work, store, "scheduler 3")
    assert len(acquired) == len({each.id for each in acquired}) == 40
    assert (await store.get_task("t")).running_jobs == 40


async def test_jobs_are_acquired_in_the_order_of_their_age(store: HeadwaterDataStore) -> None:
    jobs = [job(created_at=START + timedelta(seconds=number)) for number in (3, 1, 2)]
    for each in jobs:
        await store.add_job(each)
    found = await store.acquire_jobs("s", LEASE, 2)
    assert [each.id for each in found] == [jobs[1].id, jobs[2].id]


async def test_a_result_expires_by_the_servers_clock(store: HeadwaterDataStore) -> None:
    await store.add_job(made := job())
    (taken,) = await store.acquire_jobs("s", LEASE)
    await store.release_job("s", taken, success(taken, 1))
    left = await store._db.ttl((store.space, "result", made.id))
    assert left is not None
    assert 3500 < left <= 3600


async def test_an_open_database_is_used_and_stays_open(
    server: ServerProcess, local_broker: EventBroker, logger: logging.Logger
) -> None:
    async with headwater.connect(server.url) as database:
        store = HeadwaterDataStore(database, space="mine")
        async with AsyncExitStack() as stack:
            await local_broker.start(stack, logger)
            await store.start(stack, local_broker, logger)
            await store.add_task(Task(id="t", func="builtins:print", job_executor="async"))
        assert await database.count(("mine",)) == 1
    assert repr(store) == "HeadwaterDataStore(space='mine')"


async def test_brokers_of_one_stream_share_their_events(
    server: ServerProcess, logger: logging.Logger
) -> None:
    from apscheduler import TaskAdded

    send, receive = anyio.create_memory_object_stream[Event](4)
    async with AsyncExitStack() as stack:
        first, second = (HeadwaterEventBroker(server.url, stream="shared") for _ in range(2))
        for each in (first, second):
            await each.start(stack, logger)
        second.subscribe(send.send)
        await first.publish(TaskAdded(task_id="t"))
        with anyio.fail_after(10):
            found = await receive.receive()
    send.close()
    receive.close()
    assert isinstance(found, TaskAdded)
    assert found.task_id == "t"
