"""The memory of refused transactions, and what it explains of both sides."""

from typing import Any

from headwater_protocol.limits import CONFLICTS_LISTED_MAX
from headwater_server.engine.reads.filters import EventFilter
from headwater_server.engine.transactions.explaining import explain_all
from headwater_server.engine.transactions.refusals import SUBJECTS_KEPT
from tests.engine.database import OWNER, Database


def explained(
    database: Database, one: bytes | None, limit: int, user: int | None = None
) -> list[dict[str, Any]]:
    engine = database.engine
    name_of = engine.accounts.name_of
    return explain_all(
        engine.sequencer.refusals, engine.sequencer.published, name_of, one, limit, user
    )


def begun(database: Database) -> bytes:
    transaction = database.new_id()
    database.engine.begin(transaction, owner=OWNER)
    return transaction


def refused(database: Database, transaction: bytes, *writes: list[Any]) -> None:
    ticket = database.engine.commit(transaction, OWNER, list(writes))
    assert ticket.error is not None
    database.sync()


def test_both_sides_of_a_conflict_are_explained() -> None:
    database = Database()
    database.execute(["put", b"a", b"1"])
    transaction = begun(database)
    view = database.engine.published
    opened = database.engine.transaction(transaction, OWNER)
    opened.get(b"a")
    opened.scan(b"b", b"c", 10, False)
    opened.read_stream("s", 0, 10, False)
    opened.read_all(0, EventFilter(category="order"), 10, False)
    events = [[None, "Happened", b"secret", b""]]
    database.execute(["put", b"a", b"secret"], ["put", b"z", b"2"], ["append", "t-1", -1, events])
    winner = database.engine.published
    refused(database, transaction, ["put", b"w", b"secret"], ["append", "s", -1, events])
    (told,) = explained(database, transaction, 10)
    assert (told["code"], told["began"], told["newest"]) == ("conflict", view, winner)
    assert told["connection"] == OWNER
    assert told["read"] == {
        "keys": [b"a"],
        "ranges": [[b"b", b"c"]],
        "streams": ["s"],
        "queries": [{"category": "order"}],
        "count": 4,
    }
    assert told["wrote"]["keys"] == [b"w"]
    assert (told["wrote"]["streams"], told["wrote"]["events"]) == (["s"], 1)
    assert [(each["kind"], each["key"]) for each in told["conflicts"]] == [("read-write", b"a")]
    (won,) = told["winners"]
    assert (won["commit"], won["keys"], won["streams"]) == (winner, [b"a", b"z"], ["t-1"])
    assert won["transaction"] == database.engine.looking.read_commits(winner - 1, 1)[0][1]
    assert b"secret" not in repr(told).encode()


def test_the_winner_is_explained_also_from_the_files() -> None:
    database = Database()
    transaction = begun(database)
    database.engine.transaction(transaction, OWNER).get(b"a")
    database.execute(["put", b"a", b"1"])
    database.execute(["put", b"b", b"2"])
    refused(database, transaction, ["put", b"w", b""])
    before = explained(database, transaction, 1)
    database.checkpoint()
    assert explained(database, transaction, 1) == before
    assert before[0]["winners"][0]["keys"] == [b"a"]


def test_a_refused_request_of_one_round_trip_is_explained() -> None:
    database = Database()
    database.execute(["append", "s", 0, [[None, "Happened", b"", b""]]])
    transaction = database.new_id()
    ticket, _ = database.engine.execute(
        transaction,
        user=0,
        conditions=[],
        reads=None,
        writes=[["append", "s", 0, [[None, "Happened", b"", b""]]]],
    )
    assert ticket.error is not None
    (told,) = explained(database, None, 10)
    assert (told["transaction"], told["code"]) == (transaction, "wrong_version")
    assert told["conflicts"][0]["kind"] == "expected version"
    assert told["began"] is None
    assert told["wrote"]["streams"] == ["s"]


def test_a_user_sees_its_own_conflicts_and_nothing_that_others_wrote() -> None:
    database = Database()
    for user in (7, 8):
        transaction = database.new_id()
        database.engine.begin(transaction, owner=OWNER, user=user)
        database.engine.transaction(transaction, OWNER).get(b"a")
        database.execute(["put", b"a", b"1"])
        refused(database, transaction, ["put", b"w", b""])
    (told,) = explained(database, None, 10, 8)
    assert told["transaction"] == transaction
    assert told["winners"][0].keys() == {"commit", "transaction", "time"}
    assert len(explained(database, None, 10)) == 2
    assert explained(database, transaction, 10, 7) == []


def test_the_memory_is_bounded_and_the_newest_come_first() -> None:
    database = Database()
    sent = []
    for n in range(CONFLICTS_LISTED_MAX + 5):
        transaction = begun(database)
        opened = database.engine.transaction(transaction, OWNER)
        for key in range(SUBJECTS_KEPT + 3):
            opened.get(b"%d" % key)
        database.execute(["put", b"0", b"%d" % n])
        refused(database, transaction, ["put", b"w", b""])
        sent.append(transaction)
    told = explained(database, None, 10_000)
    assert [each["transaction"] for each in told] == sent[: -CONFLICTS_LISTED_MAX - 1 : -1]
    assert len(told[0]["read"]["keys"]) == SUBJECTS_KEPT
    assert told[0]["read"]["count"] == SUBJECTS_KEPT + 3
    assert explained(database, sent[0], 1) == [], "the oldest were forgotten"
