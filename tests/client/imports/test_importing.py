"""Imports: exactly once, with times and ids, whatever interrupts them."""

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

import headwater
from headwater.imports import (
    JsonLines,
    SourceEvent,
    import_events,
    importing,
    position_of,
    positions,
    verify,
)
from headwater.imports.positions import join_runs

START = datetime(2020, 1, 1, tzinfo=UTC)


class Given:
    """A source with events that a test gives."""

    codec: headwater.Codec | None = None

    def __init__(self, *events: SourceEvent) -> None:
        self.given = list(events)

    def count(self) -> int:
        return len(self.given)

    def events(self, after: int = 0) -> Iterator[SourceEvent]:
        return (event for event in self.given if event.position > after)


def event(number: int, *, seconds: float | None = None, **members: Any) -> SourceEvent:
    time = None if seconds is None else START + timedelta(seconds=seconds)
    given = {"stream": f"s-{number % 3}", "type": "Counted", "data": {"n": number}} | members
    return SourceEvent(position=number * 10, id=UUID(int=number), time=time, **given)


def stored(db: headwater.BlockingDatabase) -> list[tuple[UUID, str, int, Any, datetime]]:
    return [(each.id, each.stream, each.version, each.data, each.time) for each in db.read_all()]


def test_events_keep_order_ids_and_times(headwater_db: headwater.BlockingDatabase) -> None:
    db = headwater_db
    source = Given(*(event(n, seconds=n // 2, tags=("x",)) for n in range(1, 21)))
    done = import_events(db, source, name="i")
    assert (done.events, done.written, done.later, done.position) == (20, 20, 0, 200)
    assert [each[0] for each in stored(db)] == [UUID(int=n) for n in range(1, 21)]
    assert [each[4] for each in stored(db)] == [each.time for each in source.given]
    assert verify(db, source, name="i") == 20
    assert list(positions(db, "i")) == [(n * 10, n) for n in range(1, 21)]
    db.append("s-0", headwater.Event("Later"))
    assert next(iter(db.read("s-0", reverse=True))).time > START + timedelta(days=365)


def test_repeating_writes_nothing_and_continues_with_what_is_new(
    headwater_db: headwater.BlockingDatabase,
) -> None:
    db = headwater_db
    source = Given(*(event(n) for n in range(1, 6)))
    import_events(db, source, name="i")
    assert import_events(db, source, name="i").written == 0
    db.append("other", headwater.Event("Between"))
    source.given += [event(n) for n in range(6, 9)]
    done = import_events(db, source, name="i")
    assert (done.events, done.written) == (8, 3)
    assert list(positions(db, "i"))[-1] == (80, 9)
    assert verify(db, source, name="i") == 8


@pytest.mark.parametrize("times", ["keep", "now"])
@pytest.mark.parametrize("place", ["before", "after", "joining"])
@pytest.mark.parametrize("call", [0, 1, 3])
def test_an_interrupted_import_goes_on_where_it_ended(
    headwater_db: headwater.BlockingDatabase,
    monkeypatch: pytest.MonkeyPatch,
    times: importing.Times,
    place: str,
    call: int,
) -> None:
    """The answer of a request is lost, or the process dies before it stores positions."""
    db, calls = headwater_db, 0
    source = Given(*(event(n, seconds=n // 2) for n in range(1, 24)))
    send, join = importing._Writer._send, join_runs

    def interrupted(*arguments: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls - 1 != call:
            return (join if place == "joining" else send)(*arguments)
        if place == "after":
            send(*arguments)
        raise headwater.ConnectionLost("as if")

    with monkeypatch.context() as patch:
        patch.setattr(importing, "EVENTS_TOGETHER_MAX", 5)
        if place == "joining":
            patch.setattr(importing, "join_runs", interrupted)
        else:
            patch.setattr(importing._Writer, "_send", interrupted)
        with pytest.raises(headwater.ConnectionLost):
            import_events(db, source, name="i", times=times)
    with pytest.raises(headwater.InvalidArgument, match=r"did not reach its end|no import"):
        position_of(db, "i", 10)
    done = import_events(db, source, name="i", times=times)
    assert done.events == 23
    assert [each[0] for each in stored(db)] == [UUID(int=n) for n in range(1, 24)]
    assert verify(db, source, name="i") == 23
    assert list(positions(db, "i")) == [(n * 10, n) for n in range(1, 24)]
    if times == "keep":
        assert [each[4] for each in stored(db)] == [each.time for each in source.given]


def test_the_rest_of_an_interrupted_import_may_get_the_time_of_now(
    headwater_db: headwater.BlockingDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    db = headwater_db
    source = Given(*(event(n, seconds=n // 2) for n in range(1, 24)))
    monkeypatch.setattr(importing, "EVENTS_TOGETHER_MAX", 5)

    def interrupt(count: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        import_events(db, source, name="i", on_progress=interrupt)
    db.put(("by", "another"), "client")
    with pytest.raises(headwater.InvalidArgument, match="the times cannot be kept"):
        import_events(db, source, name="i")
    assert import_events(db, source, name="i", times="now").written == 18
    assert verify(db, source, name="i") == 23


def test_of_two_processes_one_is_refused(
    headwater_db: headwater.BlockingDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    db = headwater_db
    monkeypatch.setattr(importing, "EVENTS_TOGETHER_MAX", 5)
    source = Given(*(event(n) for n in range(1, 21)))

    def other(count: int) -> None:
        if count == 5:
            import_events(db, source, name="i", times="now")

    with pytest.raises(headwater.ConditionFailed, match="another process"):
        import_events(db, source, name="i", times="now", on_progress=other)
    assert len(stored(db)) == 20


def test_times_that_go_back_stay_and_are_counted(headwater_db: headwater.BlockingDatabase) -> None:
    source = Given(event(1, seconds=5), event(2, seconds=3), event(3), event(4, seconds=6))
    done = import_events(headwater_db, source, name="i")
    assert done.later == 1
    seconds = [(each[4] - START).total_seconds() for each in stored(headwater_db)]
    assert seconds == [5, 5, 5, 6]


def test_times_cannot_be_kept_behind_newer_commits(
    headwater_db: headwater.BlockingDatabase,
) -> None:
    db = headwater_db
    db.put(("k",), 1)
    source = Given(event(1, seconds=1))
    with pytest.raises(headwater.InvalidArgument, match="the times cannot be kept"):
        import_events(db, source, name="i")
    assert stored(db) == []
    import_events(db, source, name="i", times="now")
    assert [each[0] for each in stored(db)] == [UUID(int=1)]


def test_a_time_that_is_yet_to_come_is_refused(headwater_db: headwater.BlockingDatabase) -> None:
    source = Given(event(1, seconds=1), event(2, seconds=1e9))
    with pytest.raises(headwater.InvalidArgument, match="yet to come"):
        import_events(headwater_db, source, name="i")
    assert stored(headwater_db) == []


def test_a_stream_with_other_events_is_refused(headwater_db: headwater.BlockingDatabase) -> None:
    db = headwater_db
    db.append("s-1", headwater.Event("Other"))
    with pytest.raises(headwater.WrongVersion, match=r"positions 10 to 20.*other events"):
        import_events(db, Given(event(1, version=1), event(2)), name="i", times="now")
    assert len(stored(db)) == 1


def test_positions_must_grow(headwater_db: headwater.BlockingDatabase) -> None:
    with pytest.raises(headwater.InvalidArgument, match="position 10 follows 20"):
        import_events(headwater_db, Given(event(2), event(1)), name="i")


@pytest.mark.parametrize(("name", "times"), [("", "now"), ("x" * 300, "now"), ("i", "then")])
def test_arguments_are_checked(
    headwater_db: headwater.BlockingDatabase, name: str, times: Any
) -> None:
    with pytest.raises((headwater.InvalidArgument, headwater.TooLarge)):
        import_events(headwater_db, Given(event(1)), name=name, times=times)


def test_a_checkpoint_of_the_source_is_found_here(headwater_db: headwater.BlockingDatabase) -> None:
    db = headwater_db
    db.append("before", [headwater.Event("Before")] * 5)
    import_events(db, Given(*(event(n) for n in range(1, 5))), name="i", times="now")
    assert [position_of(db, "i", old) for old in (0, 9, 10, 15, 20, 40, 99)] == [
        *(None, None),
        *(6, 6, 7, 9, 9),
    ]


def test_a_difference_is_found(headwater_db: headwater.BlockingDatabase) -> None:
    db = headwater_db
    source = Given(*(event(n) for n in range(1, 5)))
    with pytest.raises(headwater.InvalidArgument, match="did not reach its end"):
        verify(db, source, name="i")
    import_events(db, source, name="i", times="now")
    for changed, message in (
        (event(2, data={"n": 3}), "position 20, now 2: data differs"),
        (event(2, stream="x"), "stream differs"),
        (event(2, tags=("x",)), "tags differs"),
        (event(2, version=7), "version differs"),
    ):
        other = Given(event(1), changed, event(3), event(4))
        with pytest.raises(headwater.InvalidArgument, match=message):
            verify(db, other, name="i")
    with pytest.raises(headwater.InvalidArgument, match="position 50 of the source was not"):
        verify(db, Given(*source.given, event(5)), name="i")
    with pytest.raises(headwater.InvalidArgument, match="has not the positions"):
        verify(db, Given(*source.given[:3]), name="i")
    db.truncate("s-1", before=2)
    with pytest.raises(headwater.InvalidArgument, match="only 3 of 4"):
        verify(db, source, name="i")


def test_events_of_another_codec_are_stored_as_they_are(
    headwater_db: headwater.BlockingDatabase, headwater_url: str
) -> None:
    source = Given(event(1, data=b"\xc1", metadata=b"\xff"))
    source.codec = headwater.RawCodec()
    import_events(headwater_db, source, name="i")
    assert verify(headwater_db, source, name="i") == 1
    with headwater.connect_blocking(headwater_url, codec=headwater.RawCodec()) as db:
        (found,) = db.read_all()
        assert (found.data, found.metadata) == (b"\xc1", b"\xff")


def test_lines_of_json_are_events(headwater_db: headwater.BlockingDatabase, tmp_path: Path) -> None:
    file = tmp_path / "events.jsonl"
    lines = [
        {"stream": "a-1", "type": "T", "data": [1, {"x": "ü"}], "time": "2020-01-01T00:00:00Z"},
        {"stream": "a-1", "type": "T", "tags": ["x"], "time": "2020-01-01T01:00:00+01:00"},
        {"stream": "a-1", "type": "T", "id": str(UUID(int=7)), "metadata": 1, "version": 3},
    ]
    file.write_text("\n\n".join(map(json.dumps, lines)) + "\n")
    source = JsonLines(file)
    assert source.count() == 3
    import_events(headwater_db, source, name="i")
    found = [*headwater_db.read_all()]
    assert [each.data for each in found] == [[1, {"x": "ü"}], None, None]
    assert [each.time for each in found] == [START] * 3
    assert found[1].tags == ("x",)
    assert (found[2].id, found[2].metadata) == (UUID(int=7), 1)
    assert list(positions(headwater_db, "i")) == [(1, 1), (3, 2), (5, 3)]
    assert verify(headwater_db, source, name="i") == 3


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "line 2: "),
        ("[]", "line 2: it is no object"),
        ('{"type": "T"}', "line 2: 'stream' is missing"),
        ('{"stream": 1, "type": "T"}', "stream: expected text, got 1"),
        ('{"stream": "s", "type": "T", "id": "x"}', "line 2: badly formed"),
        ('{"stream": "s", "type": "T", "time": "x"}', "line 2: "),
        ('{"stream": "s", "type": "T", "position": 0}', "position: 0; the minimum is 1"),
        ('{"stream": "s", "type": "T", "version": "1"}', "version: '1'"),
        ('{"stream": "s", "type": "T", "data": 18446744073709551616}', "positions 1 to 2"),
        ('{"stream": "", "type": "T"}', "positions 2 to 2|stream"),
    ],
)
def test_a_line_that_is_no_event_is_refused_with_its_place(
    headwater_db: headwater.BlockingDatabase, tmp_path: Path, line: str, message: str
) -> None:
    file = tmp_path / "events.jsonl"
    file.write_text('{"stream": "s", "type": "T"}\n' + line + "\n")
    with pytest.raises(headwater.HeadwaterError, match=message):
        import_events(headwater_db, JsonLines(file), name="i")
    assert stored(headwater_db) == []
