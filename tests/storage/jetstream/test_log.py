"""A log in a stream when requests and answers are lost, late, doubled, and when others write."""

import random
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest

from headwater_protocol.errors import DamagedFile
from headwater_server.storage.errors import Fenced, LogGoesOn, Truncated, Unavailable
from headwater_server.storage.jetstream.log import JetStreamLog
from headwater_server.storage.jetstream.settings import StreamPlan
from headwater_server.storage.jetstream.stream import Stream
from headwater_server.storage.wal.interface import WalIndex
from headwater_server.testing.memory_jetstream import Fate, MemoryJetStream, deliver
from tests.storage.wal.logs import START, all_records, fill, packed_after

SUBJECT = "headwater.log.log"


def open_log(server: MemoryJetStream, seed: int = 1) -> JetStreamLog:
    stream = Stream(server.connect(), "log", replicas_min=1)
    state = stream.make(StreamPlan("log", 1, b"database-of-test"))
    return JetStreamLog(stream, state, random.Random(seed), body_size_max=4000)


def claimed(server: MemoryJetStream, seed: int = 1) -> JetStreamLog:
    log = open_log(server, seed)
    log.claim(log.last_index)
    return log


@dataclass
class Once:
    """Gives appends these fates, one after another; then all is well."""

    fates: list[Fate] = field(default_factory=list)

    def __call__(self, subject: str) -> Fate:
        return self.fates.pop(0) if subject == SUBJECT and self.fates else Fate.ANSWERED


def confirmed(log: JetStreamLog, index: WalIndex) -> None:
    for _ in range(20):
        try:
            log.confirm(index)
        except Unavailable:
            continue
        return
    raise AssertionError("still unknown")


@pytest.mark.parametrize("remembers", [True, False])
@pytest.mark.parametrize(
    "fate", [Fate.LOST, Fate.ANSWER_LOST, Fate.LATE, Fate.TWICE, Fate.NO_LEADER]
)
@pytest.mark.parametrize("place", [0, 1, 2, 3])
def test_whatever_happens_to_one_append_each_lands_once_and_in_its_place(
    fate: Fate, place: int, remembers: bool
) -> None:
    server = MemoryJetStream(remembers=remembers)
    log = claimed(server)
    server.deliver = Once([Fate.ANSWERED] * place + [fate])
    sent = [log.send([b"%d" % number]) for number in range(4)]
    server.land()
    confirmed(log, sent[-1])
    assert sent == [2, 3, 4, 5]
    assert all_records(open_log(server)) == [b"0", b"1", b"2", b"3"]
    assert log.submit([b"4"]) == 6


def test_random_faults_neither_lose_nor_double_what_was_confirmed() -> None:
    for seed in range(200):
        source = random.Random(seed)
        server = MemoryJetStream(remembers=source.random() < 0.7)
        log = claimed(server, seed)
        rate = source.random() * 0.6

        def fate(subject: str, source: random.Random = source, rate: float = rate) -> Fate:
            return source.choice(list(Fate)) if source.random() < rate else Fate.ANSWERED

        wanted: list[bytes] = []
        server.deliver = fate
        for number in range(30):
            group = [b"%d %d" % (number, place) for place in range(source.randint(1, 3))]
            wanted += group
            index = log.send(group)
            if source.random() < 0.4:
                for _ in range(500):
                    server.land(source)
                    try:
                        log.confirm(index)
                        break
                    except Unavailable:
                        continue
                else:
                    pytest.fail(f"seed {seed}: still unknown")
                server_now, server.deliver = server.deliver, deliver
                assert all_records(open_log(server))[: len(wanted)] == wanted
                server.deliver = server_now


def test_without_an_answer_nothing_is_confirmed_and_another_server_is_asked() -> None:
    server = MemoryJetStream()
    log = claimed(server)
    server.deliver = lambda _: Fate.LOST
    index = log.send([b"a"])
    for _ in range(3):
        with pytest.raises(Unavailable):
            log.confirm(index)
    assert log.stream.service.resets >= 3  # type: ignore[attr-defined]
    assert server.last == 1
    server.deliver = deliver
    log.confirm(index)
    assert all_records(open_log(server)) == [b"a"]


def test_an_entry_that_lands_after_a_foreign_claim_is_refused_and_its_writer_fenced() -> None:
    server = MemoryJetStream()
    log, other = claimed(server), open_log(server, 2)
    server.deliver = Once([Fate.LATE, Fate.LATE])
    sent = [log.send([b"a"]), log.send([b"b"])]
    assert other.claim(WalIndex(1)) == 2
    server.land()
    other.submit([b"c"])
    with pytest.raises(Fenced, match="entry 2 is of another writer, with epoch 2"):
        log.confirm(sent[1])
    for refused in (lambda: log.send([b"d"]), log.seal, log.roll):
        with pytest.raises(Fenced):
            refused()
    assert all_records(open_log(server)) == [b"c"]
    assert log.claim(WalIndex(3)) == 3


def test_no_entry_is_on_its_way_before_the_one_ahead_of_it_is_stored() -> None:
    server = MemoryJetStream()
    log = claimed(server)
    server.deliver = Once([Fate.LATE])
    sent = [log.send([b"%d" % number]) for number in range(3)]
    # A later one would land behind the claim that takes the place of the first.
    assert len(server.late) == 1
    assert server.last == 1
    confirmed(log, sent[-1])
    assert all_records(open_log(server)) == [b"0", b"1", b"2"]


def test_an_entry_that_landed_before_a_foreign_claim_is_confirmed() -> None:
    for remembers in (True, False):
        server = MemoryJetStream(remembers=remembers)
        log, other = claimed(server), open_log(server, 2)
        server.deliver = Once([Fate.ANSWER_LOST])
        index = log.send([b"a"])
        assert other.claim(WalIndex(2)) == 2
        log.confirm(index)
        with pytest.raises(Fenced):
            log.submit([b"b"])
        assert all_records(open_log(server)) == [b"a"]


def test_a_claim_names_the_entry_that_it_follows() -> None:
    server = MemoryJetStream()
    log, other = claimed(server), open_log(server, 2)
    with pytest.raises(LogGoesOn):
        other.claim(START)

    def between(subject: str) -> Fate:
        # The other writer's entry lands between the look and the claim.
        if subject == SUBJECT:
            server.deliver = deliver
            log.submit([b"a"])
        return Fate.ANSWERED

    server.deliver = between
    with pytest.raises(LogGoesOn, match="entry 2 is of another writer"):
        other.claim(WalIndex(1))
    assert other.claim(WalIndex(2)) == 2


def test_a_claim_whose_answer_is_lost_is_found_out() -> None:
    server = MemoryJetStream(remembers=False)
    log = open_log(server)
    server.deliver = Once([Fate.ANSWER_LOST])
    assert log.claim(START) == 1
    server.deliver = lambda subject: Fate.LOST if subject == SUBJECT else Fate.ANSWERED
    with pytest.raises(Unavailable):
        log.claim(WalIndex(1))
    server.deliver = deliver
    assert log.claim(WalIndex(1)) == 2


@pytest.mark.parametrize("damage", ["lose", "flip"])
def test_a_gap_or_a_flipped_bit_ends_every_reading(damage: str) -> None:
    for number in (1, 4, 7):
        server = MemoryJetStream()
        fill(claimed(server), 6)
        if damage == "flip":
            server.flip(number, 300)
        else:
            server.lose(number)
        found: list[int] = []
        reader = open_log(server)
        with pytest.raises((DamagedFile, Truncated)):
            packed_after(reader, 0, 10**6)
        with pytest.raises((DamagedFile, Truncated)):
            for entry in reader.read(START):
                found.append(entry.index)
        # The reader may find out before it gives the first one, and never goes beyond.
        assert found == list(range(1, len(found) + 1))
        assert len(found) < number


def test_a_reader_goes_on_at_a_server_that_is_behind() -> None:
    server = MemoryJetStream()
    log = claimed(server)
    fill(log, 20)
    server.behind = 5
    assert len(packed_after(open_log(server), 0, 700)) == 21


def test_a_stream_that_lost_its_tail_confirms_nothing_and_refuses_a_claim() -> None:
    server = MemoryJetStream()
    log = claimed(server)
    fill(log, 6)
    server.forget_tail(4)
    index = log.send([b"a"])
    for _ in range(3):
        with pytest.raises(Unavailable):
            log.confirm(index)
    with pytest.raises(DamagedFile, match="entry 7 was durable, but the log ends with entry 4"):
        log.claim(WalIndex(7))


@pytest.mark.parametrize("remembers", [True, False])
def test_entries_of_another_log_are_put_in_their_places_once(remembers: bool) -> None:
    source = MemoryJetStream()
    fill(claimed(source), 10)
    entries = packed_after(open_log(source), 0, 10**6)
    server = MemoryJetStream(remembers=remembers)
    copy = open_log(server)
    server.deliver = Once([Fate.ANSWERED, Fate.LOST, Fate.ANSWER_LOST, Fate.TWICE])
    refused: list[Callable[[], object]] = [lambda: copy.ingest(entries)]
    for attempt in refused * 10:
        try:
            attempt()
            break
        except Unavailable:
            continue
    assert packed_after(open_log(server), 0, 10**6) == entries
