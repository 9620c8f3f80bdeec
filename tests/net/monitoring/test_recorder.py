"""What the recorder measures: requests to their answers, failures, groups, and what is slow."""

from typing import Any

import pytest
from trio.testing import wait_all_tasks_blocked

from headwater_protocol.errors import Conflict, TransactionGone
from headwater_server.engine import work_budget
from headwater_server.engine.work_budget import WorkBudget
from headwater_server.net.monitoring.recorder import NOT_WAITING, Recorder
from headwater_server.net.monitoring.slow_requests import asked, charged, trace_id_of
from headwater_server.net.requests.handlers import HANDLERS
from headwater_server.net.session.traces import KEPT_MAX, Traces
from tests.net.serving import serving
from tests.net.session.test_searching_ahead import execute, fill

_MS = 1_000_000

Told = tuple[str, list[Any], int, int, WorkBudget | None]


class Clock:
    """A clock in nanoseconds that goes on by itself at each reading, and by hand."""

    def __init__(self) -> None:
        self.now = 0
        self.step = 0

    def __call__(self) -> int:
        self.now += self.step
        return self.now


def recorder_of(clock: Clock, slow_ms: int, told: list[Told]) -> Recorder:
    def tell(
        name: str,
        _session: Any,
        arguments: list[Any],
        served: int,
        waited: int,
        work: Any,
        _traceparent: str,
    ) -> None:
        told.append((name, arguments, served, waited, work))

    return Recorder(clock, slow_ns_min=slow_ms * _MS, on_slow=tell)


async def test_a_server_without_a_recorder_serves_with_the_plain_handlers() -> None:
    async with serving() as server:
        assert server.server.service.handlers is HANDLERS


async def test_a_read_takes_from_its_beginning_to_its_answer() -> None:
    clock = Clock()
    recorder = Recorder(clock)
    async with serving(recorder=recorder) as server:
        client = await server.connect()
        clock.step = 5 * _MS
        await client.ask("get", None, b"k")
    durations = recorder.operations["get"]
    assert (durations.count, durations.sum) == (1, 5 * _MS)


async def test_a_commit_takes_until_its_sync_is_done() -> None:
    clock = Clock()
    recorder = Recorder(clock)
    async with serving(recorder=recorder) as server:
        client = await server.connect()
        server.disk.hold()
        request = await client.send("execute", server.new_id(), [], [], [["put", b"k", b"v"]])
        await wait_all_tasks_blocked()
        assert recorder.operations["execute"].count == 0
        assert recorder.waiting == 1
        clock.now += 7 * _MS
        server.disk.release()
        await client.result(request)
    durations = recorder.operations["execute"]
    assert (durations.count, durations.sum) == (1, 7 * _MS)
    assert recorder.waiting == 0


async def test_commits_that_share_a_sync_are_one_group() -> None:
    recorder = Recorder(Clock())
    async with serving(recorder=recorder) as server:
        client = await server.connect()
        server.disk.hold()
        first = await client.send("execute", server.new_id(), [], [], [["put", b"k", b"0"]])
        await wait_all_tasks_blocked()
        more = [
            await client.send("execute", server.new_id(), [], [], [["put", b"k", b"%d" % n]])
            for n in range(3)
        ]
        await wait_all_tasks_blocked()
        server.disk.release()
        for request in (first, *more):
            await client.result(request)
        assert recorder.groups.sum == server.engine.durable_sequence
        # A group of one, and one of three: those end in the buckets 1 and 4.
        assert dict(recorder.groups.cumulative())[4] == recorder.groups.count == 2
        assert dict(recorder.groups.cumulative())[2] == 1


async def test_failed_requests_are_counted_by_their_error() -> None:
    recorder = Recorder(Clock())
    async with serving(recorder=recorder) as server:
        client = await server.connect()
        await client.ask("get", None, b"k")
        for _ in range(2):
            with pytest.raises(TransactionGone):
                await client.ask("get", server.new_id(), b"k")
    assert recorder.failed == {("get", "transaction_gone"): 2}
    assert recorder.operations["get"].count == 3


async def test_conflicts_are_counted_by_kind_where_commits_are_refused() -> None:
    async with serving() as server:
        client = await server.connect()
        transaction = server.new_id()
        await client.ask("begin", transaction)
        await client.ask("get", transaction, b"k")
        await server.put(client, b"k", b"other")
        with pytest.raises(Conflict):
            await client.ask("commit", transaction, [["put", b"k", b"own"]])
        assert server.engine.sequencer.refusals.codes == {"conflict": 1}
        assert server.engine.sequencer.refusals.kinds == {"read-write": 1}


@pytest.mark.source
async def test_a_request_that_is_served_in_steps_takes_from_its_first_step(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its conditions are searched ahead in pages, and between them others are served."""
    monkeypatch.setattr(work_budget, "SEARCHED_MAX", 100)
    clock = Clock()
    recorder = Recorder(clock)
    async with serving(recorder=recorder) as server:
        client = await server.connect()
        await fill(server, client, 10_000)
        begun = recorder.operations["execute"].sum
        clock.step = 1 * _MS
        await client.ask("execute", *execute(server, b"v"))
        steps = (recorder.operations["execute"].sum - begun) // _MS
        assert steps > 2, "without steps it takes one reading of the clock"
        assert recorder.begun_before == {}
        await server.put(client, b"k", b"w")
        assert recorder.operations["execute"].sum - begun <= (steps + 2) * _MS


async def test_only_slow_requests_are_told_of_and_with_their_work() -> None:
    clock, told = Clock(), list[Told]()
    async with serving(recorder=recorder_of(clock, 10, told)) as server:
        client = await server.connect()
        await server.append(client, "account-ann", b"data", b"more")
        clock.step = 4 * _MS
        await client.ask("get", None, b"k")
        assert told == []
        clock.step = 10 * _MS
        await client.ask("get", None, b"k")
        (name, arguments, served, waited, work), *others = told
        assert (name, arguments[1], served, waited, work) == ("get", b"k", 10 * _MS, 0, None)
        assert others == []
        told.clear()
        clock.step = 0
        reads, write = [["get", b"k"], ["get", b"l"]], ["put", b"k", b"v"]
        server.disk.hold()
        request = await client.send("execute", server.new_id(), [], reads, [write])
        await wait_all_tasks_blocked()
        clock.now += 25 * _MS
        server.disk.release()
        await client.result(request)
        (name, _, served, waited, work) = told[0]
        assert (name, served, waited) == ("execute", 0, 25 * _MS)
        assert work is not None
        assert charged(work) == {"keys": 2}


def test_every_operation_without_a_measured_wait_exists() -> None:
    assert HANDLERS.keys() >= NOT_WAITING


def test_what_was_asked_names_reads_and_counts_writes_without_their_data() -> None:
    puts = [["put", b"k", b"secret"]] * 3
    appends = [["append", "s", -1, [[None, "Happened", b"secret", b""]]]]
    assert asked("execute", [b"id", [["value", b"k", b"secret"]], [], puts + appends]) == (
        "3 put, 1 append, 1 condition"
    )
    assert asked("commit", [b"id", puts]) == "3 put"
    assert asked("read_all", [None, 5, {"category": "account"}, 10, False, None]) == (
        "5, {'category': 'account'}, 10, False"
    )
    assert len(asked("get", [None, bytes(1000), None])) == 300


TRACEPARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


async def test_a_request_is_told_with_the_trace_that_was_announced_for_it() -> None:
    told: list[tuple[str, str, str]] = []

    def tell(name: str, _session: Any, traceparent: str, _took: int, code: str) -> None:
        told.append((name, traceparent, code))

    async with serving(recorder=Recorder(Clock(), on_traced=tell)) as server:
        client = await server.connect()
        await client.ask("trace", TRACEPARENT, 3)
        await client.ask("get", None, b"k")
        await client.ask("execute", b"t" * 16, [], [], [["put", b"k", b"v"]])
        with pytest.raises(TransactionGone):
            await client.ask("commit", b"u" * 16, [])
        await client.ask("get", None, b"k")
    assert told == [
        ("get", TRACEPARENT, ""),
        ("execute", TRACEPARENT, ""),
        ("commit", TRACEPARENT, "transaction_gone"),
    ]


async def test_a_server_that_tells_of_no_traces_keeps_none() -> None:
    async with serving(recorder=Recorder(Clock())) as server:
        client = await server.connect()
        await client.ask("trace", TRACEPARENT, 1)
        (session,) = server.server.service.sessions
        assert session.traces is None  # type: ignore[attr-defined]


async def test_the_line_of_a_slow_request_has_the_id_of_its_trace() -> None:
    clock = Clock()
    told: list[str] = []

    def tell(*arguments: Any) -> None:
        told.append(arguments[-1])

    async with serving(recorder=Recorder(clock, slow_ns_min=_MS, on_slow=tell)) as server:
        client = await server.connect()
        clock.step = 5 * _MS
        await client.ask("trace", TRACEPARENT, 1)
        await client.ask("get", None, b"k")
    assert told[-1] == TRACEPARENT
    assert trace_id_of(TRACEPARENT) == "4bf92f3577b34da6a3ce929d0e0e4736"
    assert trace_id_of("odd") == "odd"


def test_the_traces_of_a_connection_are_bounded() -> None:
    traces = Traces()
    for number in range(3 * KEPT_MAX):
        traces.announce(2 * number, 1, str(number))
    assert traces.of(0) == ""
    assert traces.of(2 * (3 * KEPT_MAX - 1)) == str(3 * KEPT_MAX - 1)
    assert traces.of(2 * (3 * KEPT_MAX - 1) + 1) == ""
