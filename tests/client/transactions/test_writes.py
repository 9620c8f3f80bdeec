"""Writes are checked at the call, and a refused write is not kept."""

import uuid
from collections.abc import Callable
from datetime import datetime
from typing import Any

import pytest

from headwater.codecs.codec import MsgpackCodec
from headwater.errors import InvalidArgument, TooLarge
from headwater.reads.key_ranges import key_range
from headwater.records import Event
from headwater.transactions.batch import Batch
from headwater.transactions.writes import REQUEST_SIZE_MAX, Writes
from headwater_protocol.limits import MIB, VALUE_SIZE_MAX, WRITES_MAX


def new() -> Writes:
    return Writes(MsgpackCodec())


WRONG: dict[str, Callable[[Writes], None]] = {
    "key: NaN": lambda w: w.put(float("nan"), 1),
    "key: .*time zone": lambda w: w.put(datetime(2013, 1, 1), 1),  # noqa: DTZ001
    "key: list": lambda w: w.put(["a"], 1),  # type: ignore[arg-type]
    "the empty tuple": lambda w: w.put((), 1),
    "key: 8.* bytes encoded": lambda w: w.put("k" * 8200, 1),
    r"value of \('a', 1\) cannot be encoded": lambda w: w.put(("a", 1), object()),
    "value of 'big': 9000005 bytes; the maximum is 8388": lambda w: w.put("big", bytes(9_000_000)),
    "delete_range: give a prefix": lambda w: w.delete_range(),
    "give either a prefix": lambda w: w.delete_range("a", start="b"),
    "add: number": lambda w: w.add("a", float("nan")),
    "add: 9223372036854775808 does not fit": lambda w: w.add("a", 2**63),
    "max: number: .*str": lambda w: w.max("a", "b"),  # type: ignore[arg-type]
    "min: number: .*bool": lambda w: w.min("a", True),
    "append: stream": lambda w: w.append("", Event("A")),
    "append: expect": lambda w: w.append("s", Event("A"), expect=-3),
    "append: no events": lambda w: w.append("s", []),
    "event 1 of 's': type": lambda w: w.append("s", [Event("A"), Event("")]),
    "event 0 of 's': data cannot": lambda w: w.append("s", Event("A", object())),
    "event 0 of 's': metadata cannot": lambda w: w.append("s", Event("A", 1, {"m": object()})),
    "event 0 of 's': id: expected a UUID": lambda w: w.append("s", Event("A", id="x")),  # type: ignore[arg-type]
    "tags: expected a list, got 'x'": lambda w: w.append("s", Event("A", tags="x")),
    r"event 0 of 's': tags\[1\]: 0 bytes": lambda w: w.append("s", Event("A", tags=["x", ""])),
    "event 0 of 's': tags: 'x' occurs": lambda w: w.append("s", Event("A", tags=["x", "x"])),
    "event 0 of 's': tags: 65 items": lambda w: w.append(
        "s", Event("A", tags=[str(n) for n in range(65)])
    ),
    "event 0 of 's': expected an Event": lambda w: w.append("s", ["A"]),  # type: ignore[list-item]
    "append: events: expected an Event, or several, got 5": lambda w: w.append("s", 5),  # type: ignore[arg-type]
    "^add: number": lambda w: w.add("a", "b"),  # type: ignore[arg-type]
    "^truncate: before: -1": lambda w: w.truncate("s", before=-1),
    "^set_retention: max_count: 0": lambda w: w.set_retention("s", max_count=0),
    "erase: versions: expected several, got 5": lambda w: w.erase("s", versions=5),  # type: ignore[arg-type]
    "erase: ids: expected several, got 7": lambda w: w.erase("s", ids=7),  # type: ignore[arg-type]
    r"erase: versions\[1\]: 0; allowed": lambda w: w.erase("s", versions=[1, 0]),
    r"erase: positions\[0\]: expected int": lambda w: w.erase(positions="7"),  # type: ignore[arg-type]
    "ack: expected a delivery, got 5": lambda w: w.ack(5),  # type: ignore[arg-type]
    "save_snapshot: version": lambda w: w.save_snapshot("s", version=-1, state=1),
    "save_snapshot: schema": lambda w: w.save_snapshot("s", version=1, state=1, schema=-1),
    "state of 's' cannot be encoded": lambda w: w.save_snapshot("s", version=1, state=object()),
}


@pytest.mark.parametrize("what", WRONG)
def test_a_wrong_write_is_refused_at_the_call_and_not_kept(what: str) -> None:
    writes = new()
    with pytest.raises((InvalidArgument, TooLarge), match=what):
        WRONG[what](writes)
    assert [*writes._parts()] == []


class Held:
    """The part of a delivery that an acknowledgement uses."""

    def __init__(self, group: str) -> None:
        self.group = group
        self.claim = [1, 2]

    def claimed(self) -> "Held":
        return self

    def check_mine(self) -> None:
        pass


def test_deliveries_of_several_groups_are_acknowledged_together_or_not_at_all() -> None:
    writes = new()
    for _ in range(WRITES_MAX - 1):
        writes.delete("a")
    with pytest.raises(TooLarge, match="at most"):
        writes.ack(Held("one"), Held("two"))  # type: ignore[arg-type]
    assert sum(len(part) for part in writes._parts()) == WRITES_MAX - 1
    # There is room for one acknowledgement.
    writes.ack(Held("one"))  # type: ignore[arg-type]
    assert sum(len(part) for part in writes._parts()) == WRITES_MAX


def test_an_append_that_is_larger_than_a_request_is_refused() -> None:
    with pytest.raises(TooLarge, match="one append"):
        new().append("s", [Event("A", bytes(4 * MIB)) for _ in range(4)])


def test_writes_are_kept_in_order_in_the_form_of_the_protocol() -> None:
    writes = new()
    identity = uuid.uuid4()
    writes.put("a", 1)
    writes.delete(("a", None))
    writes.delete_range(())
    writes.delete_range(start="b")
    writes.add("n", 1)
    writes.append("s", Event("A", None, {"k": 1}, identity), expect=3)
    writes.save_snapshot("s", version=4, state=b"", name="x")
    assert [*writes._parts()] == [
        [
            ["put", b"\x02a\0", b"\x01"],
            ["delete", b"\x02a\0\0"],
            ["delete_range", b"", None],
            ["delete_range", b"\x02b\0", None],
            ["add", b"\x02n\0", 1],
            ["append", "s", 3, [[identity.bytes, "A", b"\xc0", b"\x81\xa1k\x01"]]],
            ["save_snapshot", "s", "x", 0, 4, b"\xc4\x00"],
        ]
    ]
    writes._empty()
    assert [*writes._parts()] == []


def test_writes_are_divided_into_parts_smaller_than_a_request() -> None:
    writes = new()
    for number in range(9):
        writes.put(number, bytes(3 * MIB))
    parts = [*writes._parts()]
    assert [len(part) for part in parts] == [4, 4, 1]
    assert all(sum(len(write[2]) for write in part) <= REQUEST_SIZE_MAX for part in parts)


def test_the_number_of_writes_in_a_transaction_is_bounded() -> None:
    writes = new()
    for _ in range(WRITES_MAX):
        writes.delete(1)
    with pytest.raises(TooLarge, match="100000 writes"):
        writes.delete(1)


def test_a_value_may_be_exactly_as_large_as_the_bound() -> None:
    new().put("a", bytes(VALUE_SIZE_MAX - 5))
    with pytest.raises(TooLarge):
        new().put("a", bytes(VALUE_SIZE_MAX - 4))


@pytest.mark.parametrize(
    ("arguments", "wanted"),
    [
        ((None, None, None), (b"", None)),
        (((), None, None), (b"", None)),
        (("a", None, None), (b"\x02a\0", b"\x02a\0\xff")),
        ((None, "a", None), (b"\x02a\0", None)),
        ((None, None, ("a", 1)), (b"", b"\x02a\0\x15\x01")),
    ],
)
def test_a_range_is_a_prefix_or_a_start_and_an_end(arguments: Any, wanted: Any) -> None:
    assert key_range(*arguments) == wanted


def test_a_batch_checks_its_conditions_and_reads_at_the_call() -> None:
    batch = Batch(MsgpackCodec())
    wrong: list[Callable[[], Any]] = [
        lambda: batch.require("a", object()),
        lambda: batch.require_stream("", 1),
        lambda: batch.require_unchanged("a", commit=-1),
        lambda: batch.get(()),
        lambda: batch.scan(limit=0),
        lambda: batch.read("s", limit=1_000_000),
    ]
    for call in wrong:
        with pytest.raises((InvalidArgument, TooLarge)):
            call()
    assert batch.request() == ([], [], [])
