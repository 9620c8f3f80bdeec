"""Rules over several streams, enforced by queries, with many concurrent clients.

Each rule is tested with a condition on a single append, with a serializable transaction that reads
the query, and with a condition in a transaction whose reads are not checked.
"""

import random
import secrets
import threading
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

import headwater
from headwater import BlockingDatabase, BlockingTransaction, Event, Query
from headwater.cli.server_process import ServerProcess

CLIENTS = 6
WAYS = ["one append", "serializable", "snapshot"]

Decide = Callable[[list[headwater.RecordedEvent]], tuple[str, Event] | None]
"""A function of the events of a query that returns a stream and the event to append to it."""


def decide_once(db: BlockingDatabase, way: str, query: Query, decide: Decide) -> bool:
    """Read the query, decide and append, until it succeeds or nothing is to be appended."""
    if way == "one append":
        while True:
            found = list(db.read_all(query=query))
            decided = decide(found)
            if decided is None:
                return False
            after = found[-1].position if found else 0
            try:
                db.append(*decided, unless=query, after=after)
            except headwater.ConditionFailed:
                continue
            return True

    def attempt(tx: BlockingTransaction) -> bool:
        found = list(tx.read_all(query=query))
        decided = decide(found)
        if decided is None:
            return False
        if way == "snapshot":
            after = found[-1].position if found else 0
            tx.append(*decided, unless=query, after=after)
        else:
            tx.append(*decided)
        return True

    isolation: headwater.Isolation = "snapshot" if way == "snapshot" else "serializable"
    return db.run(attempt, isolation=isolation, deadline=50)


def in_clients(url: str, work: Callable[[BlockingDatabase, int], Any]) -> list[Any]:
    """Do the work in several clients at the same time, each with its own connection."""
    outcomes: list[Any] = [None] * CLIENTS
    failures: list[BaseException] = []
    ready = threading.Barrier(CLIENTS)

    def run(place: int) -> None:
        try:
            with headwater.connect_blocking(url) as db:
                ready.wait()
                outcomes[place] = work(db, place)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=run, args=(place,)) for place in range(CLIENTS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures, failures
    return outcomes


@pytest.mark.parametrize("way", WAYS)
def test_only_one_of_many_clients_can_take_a_name(way: str, real_server: ServerProcess) -> None:
    tag = f"name:{secrets.token_hex(6)}"
    taken = Query(types=["NameTaken"], tags=[tag])

    def register(db: BlockingDatabase, place: int) -> bool:
        def decide(found: list[headwater.RecordedEvent]) -> tuple[str, Event] | None:
            return None if found else (f"{tag}-{place}", Event("NameTaken", place, tags=[tag]))

        return decide_once(db, way, taken, decide)

    outcomes = in_clients(real_server.url, register)
    assert outcomes.count(True) == 1
    with headwater.connect_blocking(real_server.url) as db:
        assert [event.data for event in db.read_all(query=taken)] == [outcomes.index(True)]


@pytest.mark.parametrize("way", WAYS)
def test_invoice_numbers_have_no_gaps_and_no_duplicates(
    way: str, real_server: ServerProcess
) -> None:
    tag = f"invoices:{secrets.token_hex(6)}"
    issued = Query(types=["Issued"], tags=[tag])

    def issue(db: BlockingDatabase, place: int) -> None:
        def decide(found: list[headwater.RecordedEvent]) -> tuple[str, Event]:
            number = found[-1].data + 1 if found else 1
            return f"invoice-{tag}-{place}", Event("Issued", number, tags=[tag])

        for _ in range(4):
            assert decide_once(db, way, issued, decide)

    in_clients(real_server.url, issue)
    with headwater.connect_blocking(real_server.url) as db:
        numbers = [event.data for event in db.read_all(query=issued)]
    assert numbers == list(range(1, 4 * CLIENTS + 1))


@pytest.mark.parametrize("way", WAYS)
def test_no_course_has_too_many_students_and_no_student_too_many_courses(
    way: str, real_server: ServerProcess
) -> None:
    name = secrets.token_hex(6)
    seats, courses_each = 3, 2
    source = random.Random(name)
    print("seed", name)
    wishes = [
        [(source.randrange(3), source.randrange(5)) for _ in range(6)] for _ in range(CLIENTS)
    ]

    def enrol(db: BlockingDatabase, place: int) -> None:
        for course, student in wishes[place]:
            of_course, of_student = f"course:{name}:{course}", f"student:{name}:{student}"
            rule = Query(types=["Enrolled"], tags=[of_course]) | Query(tags=[of_student])

            def decide(
                found: list[headwater.RecordedEvent],
                of_course: str = of_course,
                of_student: str = of_student,
            ) -> tuple[str, Event] | None:
                full = sum(of_course in event.tags for event in found) >= seats
                busy = sum(of_student in event.tags for event in found) >= courses_each
                twice = any({of_course, of_student} <= {*event.tags} for event in found)
                if full or busy or twice:
                    return None
                return of_course, Event("Enrolled", tags=[of_course, of_student])

            decide_once(db, way, rule, decide)

    in_clients(real_server.url, enrol)
    with headwater.connect_blocking(real_server.url) as db:
        enrolled: list[headwater.RecordedEvent] = []
        for course in range(3):
            enrolled += db.read_all(types=["Enrolled"], tags=[f"course:{name}:{course}"])
    pairs = [tuple(event.tags) for event in enrolled]
    assert len(set(pairs)) == len(pairs) > 0
    assert max(Counter(course for course, _ in pairs).values()) <= seats
    assert max(Counter(student for _, student in pairs).values()) <= courses_each
