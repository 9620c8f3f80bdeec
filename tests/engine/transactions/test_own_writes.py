"""A transaction's reads see its own appends, deletions, caps and erasures.

Two laws, tested with random writes: the last reads of a transaction equal the reads after its
commit; and writes have the same effect together as each in its own transaction.
"""

import random
from collections.abc import Iterator
from typing import Any

import pytest

from headwater_protocol.errors import (
    ConditionFailed,
    Conflict,
    DuplicateEvent,
    HeadwaterError,
    InvalidArgument,
    NoSuchEvent,
    WrongVersion,
)
from headwater_protocol.numbers import ANY, NO_STREAM, STREAM_EXISTS
from headwater_server.engine.format.events import decode_event
from headwater_server.engine.reads.filters import EventFilter
from headwater_server.engine.reads.reading import Reader
from tests.engine.database import Database

SEEDS = range(60)
STREAMS = ("a-1", "a-2")


def event(name: str = "T", identity: bytes | None = None) -> list[Any]:
    return [identity, name, b"data", b""]


def append(stream: str, *names: str, expect: int = ANY) -> list[Any]:
    return ["append", stream, expect, [event(name) for name in names or ("T",)]]


def save(stream: str, version: int, read_at: int | None = None) -> list[Any]:
    state = b"state %d" % version
    return ["save_snapshot", stream, "", 0, version, state, read_at]


def seen(reader: Reader, stream: str) -> tuple[Any, ...]:
    """The results of all reads of a stream, without positions and commits."""
    page = reader.read_stream(stream, 0, 1000, False)
    backwards = reader.read_stream(stream, 0, 1000, True)
    loaded = reader.load(stream, "", 0)
    events = [(each.version, each.type, each.data) for each in map(decode_event, page.events)]
    assert backwards.events == page.events[::-1]
    snapshot_version = 0 if loaded.snapshot is None else loaded.snapshot[0]
    later = [decode_event(each).version for each in loaded.events]
    assert later == [version for version, _, _ in events if version > snapshot_version]
    return page.version, events, loaded.snapshot, loaded.begins


def random_writes(dice: random.Random, version: dict[str, int]) -> Iterator[list[Any]]:
    """Random writes, most of which succeed. *version* follows the appends that do."""
    words = ("append", "append", "expect", "given", "less", "erase", "erase_ids", "save")
    for _ in range(dice.randint(1, 8)):
        stream = dice.choice(STREAMS)
        newest = version[stream]
        match dice.choice(words):
            case "append":
                yield append(stream, "T", expect=dice.choice((ANY, ANY, ANY, newest)))
                version[stream] += 1
            case "expect":
                yield append(stream, "U", expect=dice.choice((newest, NO_STREAM, STREAM_EXISTS)))
                version[stream] += 1
            case "given":
                identity = bytes([dice.randint(1, 3)] * 16)
                yield ["append", stream, ANY, [event("G", identity)]]
            case "erase" if newest:
                yield ["erase", stream, [dice.randint(1, newest)]]
            case "erase_ids" if newest:
                yield ["erase_ids", stream, [bytes([dice.randint(1, 3)] * 16)]]
            case "save" if newest:
                yield save(stream, dice.randint(max(1, newest - 2), newest))
            case _:
                yield dice.choice(
                    (
                        ["truncate", stream, max(1, dice.randint(newest - 2, newest + 1))],
                        ["delete_stream", stream],
                        ["set_retention", stream, dice.choice((None, 1, 2, 4)), None],
                        ["set_retention", stream, None, 3_600_000_000],
                    )
                )


def filled(dice: random.Random) -> Database:
    """A database whose streams have some history, in the memtable or in the files."""
    database = Database()
    version = dict.fromkeys(STREAMS, 0)
    for write in random_writes(dice, version):
        try:
            database.execute(_read_now(database, write))
        except HeadwaterError:
            pass
    if dice.random() < 0.5:
        database.checkpoint()
    return database


def _read_now(database: Database, write: list[Any]) -> list[Any]:
    """The write; a snapshot as if its state had been read a moment ago."""
    return [*write[:-1], database.engine.published] if write[0] == "save_snapshot" else write


def versions_of(database: Database) -> dict[str, int]:
    reader = database.engine.reader()
    return {stream: reader.read_stream(stream, 0, 1, False).version for stream in STREAMS}


@pytest.mark.parametrize("seed", SEEDS)
def test_the_reads_of_a_transaction_equal_the_reads_after_its_commit(seed: int) -> None:
    dice = random.Random(seed)
    database = filled(dice)
    for _ in range(5):
        opened = database.begin()
        for write in random_writes(dice, versions_of(database)):
            opened.write([write])
        own = wrong = None
        try:
            own = [seen(opened, stream) for stream in STREAMS]
        except HeadwaterError as error:
            wrong = error
        try:
            database.commit(opened)
        except HeadwaterError:
            continue
        assert wrong is None, f"seed {seed}: the commit was possible"
        reader = database.engine.reader()
        assert [seen(reader, stream) for stream in STREAMS] == own, f"seed {seed}"


@pytest.mark.parametrize("seed", SEEDS)
def test_writes_have_the_same_effect_together_as_in_separate_transactions(seed: int) -> None:
    results = []
    for together in (True, False):
        dice = random.Random(seed)
        database = filled(dice)
        outcomes: list[Any] = []
        for _ in range(5):
            writes = list(random_writes(dice, versions_of(database)))
            given = [
                (each[1], each[3][0][0])
                for each in writes
                if each[0] == "append" and each[3][0][0] is not None
            ]
            if len(set(given)) < len(given):
                # An id twice in one transaction is refused, and in two it is the same event.
                continue
            try:
                if together:
                    database.execute(*(_read_now(database, write) for write in writes))
                else:
                    _rehearse(database, writes)
                    for write in writes:
                        database.execute(_read_now(database, write))
            except HeadwaterError:
                # If several writes fail, the reported error may differ.
                outcomes.append("refused")
            reader = database.engine.reader()
            outcomes.append([seen(reader, stream) for stream in STREAMS])
        results.append(outcomes)
    assert results[0] == results[1], f"seed {seed}"


def _rehearse(database: Database, writes: list[list[Any]]) -> None:
    """Raise the error of the first write that fails, and write nothing."""
    copy = database.crash()
    for write in writes:
        copy.execute(_read_now(copy, write))


# Single cases, which used to fail.


@pytest.mark.parametrize("expect", [3, 1, STREAM_EXISTS])
def test_a_deleted_stream_has_no_version_that_an_append_or_a_condition_could_expect(
    expect: int,
) -> None:
    # A client that had loaded the stream before its deletion could still append. So an account
    # that nobody had opened had a balance.
    database = Database()
    database.execute(append("a-1", "T", "T", "T"))
    database.execute(["delete_stream", "a-1"])
    for _ in range(2):
        with pytest.raises(WrongVersion, match="'a-1' was deleted, at version 3") as caught:
            database.execute(append("a-1", expect=expect))
        assert not caught.value.retryable
        with pytest.raises(ConditionFailed):
            database.execute(["put", b"k", b"v"], conditions=[["stream", "a-1", expect]])
        database.checkpoint()
    database.execute(append("a-1", expect=NO_STREAM), conditions=[["stream", "a-1", NO_STREAM]])
    assert versions_of(database)["a-1"] == 4


@pytest.mark.parametrize("meanwhile", [append("a-1"), ["delete_stream", "a-1"]])
@pytest.mark.parametrize("expect", [1, 2, 3, STREAM_EXISTS])
@pytest.mark.parametrize("earlier", [[], [append("a-1")]])
def test_an_expectation_that_the_own_deletion_refutes_is_not_a_lost_race(
    earlier: list[Any], expect: int, meanwhile: list[Any]
) -> None:
    # Its own deletion was forgotten when it was asked whether the expectation had held at the
    # read view. So the error was retryable, and `db.run` tried until its deadline.
    writes = [*earlier, ["delete_stream", "a-1"], append("a-1", expect=expect)]
    database = Database()
    database.execute(append("a-1"))
    with pytest.raises(WrongVersion) as caught:
        database.commit(database.begin(), *writes)
    assert not caught.value.retryable
    opened = database.begin()
    database.execute(meanwhile)
    with pytest.raises(WrongVersion) as caught:
        database.commit(opened, *writes)
    assert not caught.value.retryable


@pytest.mark.parametrize(
    ("before", "meanwhile", "expect", "retryable"),
    [
        ([append("a-1")], ["delete_stream", "a-1"], 1, True),
        ([append("a-1")], ["delete_stream", "a-1"], STREAM_EXISTS, True),
        ([append("a-1")], ["delete_stream", "a-1"], 2, False),
        ([append("a-1"), ["delete_stream", "a-1"]], append("b"), 1, False),
        ([append("a-1"), ["delete_stream", "a-1"]], append("a-1"), NO_STREAM, True),
        ([append("a-1"), ["delete_stream", "a-1"]], append("a-1"), 1, False),
    ],
)
def test_a_lost_race_with_a_deletion_is_retryable_and_a_wrong_version_is_not(
    before: list[Any], meanwhile: list[Any], expect: int, retryable: bool
) -> None:
    database = Database()
    database.execute(*before)
    opened = database.begin()
    database.execute(meanwhile)
    with pytest.raises(WrongVersion) as caught:
        database.commit(opened, append("a-1", expect=expect))
    assert caught.value.retryable == retryable


def test_an_append_does_not_expect_the_version_of_a_stream_that_its_transaction_deletes() -> None:
    database = Database()
    database.execute(append("a-1"))
    opened = database.begin()
    with pytest.raises(WrongVersion) as caught:
        database.commit(opened, ["delete_stream", "a-1"], append("a-1", expect=1))
    assert not caught.value.retryable
    database.execute(["delete_stream", "a-1"], append("a-1", expect=NO_STREAM))
    assert versions_of(database)["a-1"] == 2


@pytest.mark.parametrize("wanted", [{"category": "a"}, {"prefix": "a"}, {"types": ["T"]}])
def test_a_condition_does_not_count_events_that_its_transaction_hides(
    wanted: dict[str, Any],
) -> None:
    # Releasing a name and taking it again in one transaction used to be refused.
    database = Database()
    database.execute(append("a-1"))
    taken = [*append("b-1"), wanted, 0]
    for hide in (["delete_stream", "a-1"], ["truncate", "a-1", 2]):
        with pytest.raises(ConditionFailed):
            database.execute(taken, hide)
    database.execute(["delete_stream", "a-1"], taken)
    assert versions_of(database)["a-1"] == 1


@pytest.mark.parametrize("layer", ["active", "files"])
@pytest.mark.parametrize("other", [[], [["truncate", "b-1", 1]]])
def test_events_that_earlier_appends_push_out_count_for_no_condition_and_no_id(
    other: list[Any], layer: str
) -> None:
    # They counted unless the transaction also had a retention write, of whatever stream.
    database = Database()
    one = bytes([1] * 16)
    given = ["append", "a-1", ANY, [event("T", one)]]
    database.execute(given, ["set_retention", "a-1", 2, None])
    if layer == "files":
        database.checkpoint()
    pushing = append("a-1", "U", "U")
    for wanted in ({"stream": "a-1"}, {"prefix": "a"}, {"category": "a"}, {"types": ["T"]}):
        taken = [*append("b-1"), wanted, 0]
        with pytest.raises(ConditionFailed):
            database.crash().execute(*other, append("a-1", "U"), taken)
        database.crash().execute(*other, pushing, taken)
    database.execute(*other, pushing, given)
    assert [each[0] for each in seen(database.engine.reader(), "a-1")[1]] == [3, 4]


def test_an_id_that_the_transaction_hides_can_be_used_again() -> None:
    # The append used to be acknowledged as a repeated one, and the deletion hid the old event.
    database = Database()
    given = ["append", "a-1", ANY, [event("T", bytes([1] * 16))]]
    database.execute(given)
    database.execute(["delete_stream", "a-1"], given)
    assert [each[0] for each in seen(database.engine.reader(), "a-1")[1]] == [2]


@pytest.mark.parametrize("layer", ["active", "files", "rewritten"])
def test_an_append_with_the_id_of_an_erased_event_is_refused(layer: str) -> None:
    # It used to be acknowledged and dropped, whatever its data.
    database = Database()
    given = ["append", "a-1", ANY, [event("T", bytes([1] * 16))]]
    transaction = database.new_id()
    first = database.execute(given, transaction=transaction)
    database.execute(["erase", "a-1", [1]])
    if layer != "active":
        database.checkpoint()
    if layer == "rewritten":
        database.rewrite()
    for other in (event("T", bytes([1] * 16)), event("U", bytes([1] * 16))):
        with pytest.raises(DuplicateEvent, match="which was erased"):
            database.execute(["append", "a-1", ANY, [other]], ["put", b"k", b"v"])
    assert database.engine.get(b"k") is None
    # The same transaction, sent again, is answered by its own commit.
    assert database.execute(given, transaction=transaction) == first


def test_an_append_with_the_id_of_an_event_that_its_transaction_erases_is_refused() -> None:
    # It used to be acknowledged as a repeated append, and nothing was appended.
    database = Database()
    given = ["append", "a-1", ANY, [event("T", bytes([1] * 16))]]
    database.execute(given)
    for erase in (["erase", "a-1", [1]], ["erase_positions", [1]]):
        with pytest.raises(DuplicateEvent, match="which was erased"):
            database.execute(erase, given)
    # The append came first, so it repeated an event that still had its data.
    database.execute(given, ["erase", "a-1", [1]])


@pytest.mark.parametrize("appended_before", [True, False])
def test_a_snapshot_between_two_erasures_of_one_event_is_kept_and_can_be_read(
    appended_before: bool,
) -> None:
    # The commit kept it, and the transaction's own reads did not show it.
    database = Database()
    if appended_before:
        database.execute(append("a-1"))
    opened = database.begin()
    opened.write([] if appended_before else [append("a-1")])
    opened.write([["erase", "a-1", [1]], save("a-1", 1), ["erase", "a-1", [1]]])
    own = seen(opened, "a-1")
    assert own[2] == (1, b"state 1")
    database.commit(opened)
    assert seen(database.engine.reader(), "a-1") == own


@pytest.mark.parametrize(("later", "stays"), [(1, False), (2, False), (3, True)])
def test_a_transaction_does_not_read_a_snapshot_that_its_later_erasure_removes(
    later: int, stays: bool
) -> None:
    # An erasure removes the snapshots from the lowest version on that it erases.
    database = Database()
    database.execute(append("a-1", "T", "T", "T", "T"))
    opened = database.begin()
    opened.write([["erase", "a-1", [4]], save("a-1", 2), ["erase", "a-1", [later]]])
    own = seen(opened, "a-1")
    assert own[2] == ((2, b"state 2") if stays else None)
    database.commit(opened)
    assert seen(database.engine.reader(), "a-1") == own


def test_a_snapshot_that_is_saved_before_an_erasure_in_one_transaction_is_not_kept() -> None:
    for save_first in (True, False):
        database = Database()
        database.execute(append("a-1", "T", "T"))
        writes = [save("a-1", 2), ["erase", "a-1", [1]]]
        database.execute(*(writes if save_first else writes[::-1]))
        found = seen(database.engine.reader(), "a-1")[2]
        assert found == (None if save_first else (2, b"state 2"))
    # An older snapshot of the same version is not kept in its place.
    database = Database()
    database.execute(append("a-1", "T", "T"), save("a-1", 2))
    database.execute(save("a-1", 2), ["erase", "a-1", [2]])
    assert seen(database.engine.reader(), "a-1")[2] is None


def test_a_late_snapshot_of_events_that_were_erased_meanwhile_is_refused() -> None:
    # It used to be stored, and brought the erased data back.
    database = Database()
    database.execute(append("a-1", "T", "T", "T"))
    read_at = database.engine.published
    database.execute(["erase", "a-1", [2]])
    erased_at = database.engine.published
    with pytest.raises(Conflict, match="conflict on snapshot") as caught:
        database.execute(save("a-1", 3, read_at))
    assert not caught.value.retryable
    with pytest.raises(InvalidArgument, match="Say at which commit"):
        database.execute(save("a-1", 3))
    with pytest.raises(InvalidArgument, match="was not made yet"):
        database.execute(save("a-1", 3, erased_at + 1))
    # These are accepted: the snapshot is older than the erased event, or its events were read
    # after the erasure.
    database.execute(save("a-1", 1))
    database.execute(save("a-1", 3, erased_at))
    assert seen(database.engine.reader(), "a-1")[2] == (3, b"state 3")


@pytest.mark.parametrize("isolation", ["serializable", "snapshot"])
def test_an_open_transaction_saves_no_snapshot_across_an_erasure_that_it_does_not_see(
    isolation: str,
) -> None:
    database = Database()
    database.execute(append("a-1", "T", "T"))
    early = database.begin(isolation=isolation)
    database.execute(["erase", "a-1", [1]])
    late = database.begin(isolation=isolation)
    with pytest.raises(Conflict, match="conflict on snapshot") as caught:
        database.commit(early, save("a-1", 2))
    assert caught.value.retryable
    database.commit(late, save("a-1", 2))
    assert seen(database.engine.reader(), "a-1")[2] == (2, b"state 2")


def test_an_event_can_be_erased_by_the_transaction_that_appends_it() -> None:
    database = Database()
    identity = bytes([1] * 16)
    database.execute(append("a-1", "T"))
    before = versions_of(database)
    assert before["a-1"] == 1
    database.execute(
        ["append", "a-1", ANY, [event("T"), event("G", identity)]],
        append("b-1"),
        ["erase", "a-1", [1, 2]],
        ["erase_ids", "a-1", [identity]],
    )
    for _ in range(2):
        assert [each[2] for each in seen(database.engine.reader(), "a-1")[1]] == [None] * 3
        database = database.crash()
    with pytest.raises(NoSuchEvent):
        database.execute(["erase", "a-1", [4]], append("a-1"))


@pytest.mark.parametrize("rest", [[], [append("a-1")], [append("a-1"), ["delete_stream", "a-1"]]])
def test_a_repeated_append_does_not_shift_the_events_that_a_transaction_erases_by_id(
    rest: list[Any],
) -> None:
    # The events of the repeated append were counted, so the transaction showed the erased data.
    one, two = bytes([1] * 16), bytes([2] * 16)
    database = Database()
    given = ["append", "a-1", ANY, [event("T", one)]]
    database.execute(given)
    opened = database.begin()
    opened.write([given, *rest, ["append", "a-1", ANY, [event("T", two)]]])
    opened.write([["erase_ids", "a-1", [one]], ["erase_ids", "a-1", [two]]])
    own = seen(opened, "a-1")
    database.commit(opened)
    assert seen(database.engine.reader(), "a-1") == own


def test_a_query_of_a_transaction_shows_no_data_that_it_erases() -> None:
    database = Database()
    database.execute(append("a-1", "T", "T"))
    for write in (["erase", "a-1", [2]], ["erase_positions", [2]]):
        opened = database.begin()
        opened.write([write])
        for wanted in (EventFilter(), EventFilter(category="a"), EventFilter(types=("T",))):
            page = opened.read_all(0, wanted, 10, False)
            assert [decode_event(each).data for each in page.events] == [b"data", None]
