"""What docs/guarantees.md and --help promise, each sentence as a test from outside.

The tests of the parts go much deeper. These hold the sentences: a promise of the page that has no
test here, and a test here whose promise is gone, are failures.
"""

import re
import threading
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest
from click.testing import CliRunner

import headwater
from headwater import Event
from headwater.cli import main
from headwater.cli.server_process import ServerProcess

ROOT: Final = Path(__file__).parent.parent
PAGE: Final = (ROOT / "docs/guarantees.md").read_text()

GUARANTEES: Final = {
    "One transaction for everything.": (
        "test_keys_events_and_snapshots_are_written_together_or_not_at_all",
    ),
    "Serializable isolation.": (
        "test_a_transaction_whose_reads_have_changed_does_not_commit",
        "test_a_read_only_transaction_never_conflicts_and_ends_when_it_is_idle",
    ),
    "One order.": ("test_commits_and_positions_have_no_gaps",),
    "Durable before acknowledged.": ("test_what_was_acknowledged_survives_a_kill",),
    "Exactly once.": ("test_a_transaction_that_is_resolved_as_aborted_never_commits",),
    "Rules over several streams.": ("test_an_append_can_depend_on_a_query_over_all_streams",),
    "Snapshots never change a result.": ("test_a_snapshot_of_another_schema_is_ignored",),
    "Exactly-once read models.": ("test_an_event_that_fails_parks_its_own_stream_only",),
    "Exactly-once consumers.": ("test_an_acknowledgement_and_a_result_commit_together",),
    "Events outlive their code.": ("test_stored_events_are_upgraded_when_they_are_read",),
    "Reads of the past.": ("test_keys_and_streams_can_be_read_as_of_an_earlier_commit",),
    "Retention and erasure.": ("test_hidden_and_erased_events_are_gone_for_every_read",),
    "Online backups.": ("test_a_backup_can_be_checked_and_served",),
    "Restore to any moment.": ("test_any_commit_is_restored_from_the_archive",),
}
"""The bold words of each guarantee of the page, with its tests in this file."""


@pytest.fixture
def db(real_server: ServerProcess) -> Iterator[headwater.BlockingDatabase]:
    with headwater.connect_blocking(real_server.url) as db:
        yield db


@pytest.fixture
def name() -> str:
    """A name that no other test uses: they share a server."""
    return "r" + uuid.uuid4().hex


def call(*arguments: str) -> str:
    result = CliRunner().invoke(main, [*arguments])
    assert result.exit_code == 0, result.output
    return result.output


def test_every_guarantee_of_the_page_has_its_tests_here() -> None:
    listed = PAGE[PAGE.index("## What it guarantees") : PAGE.index("## Its limits")]
    promised = re.findall(r"^- \*\*(.+?)\*\*", listed, re.MULTILINE)
    assert promised == list(GUARANTEES)
    for tests in GUARANTEES.values():
        for test in tests:
            assert callable(globals()[test])


def test_the_numbers_among_the_limits_are_those_of_the_code() -> None:
    from headwater_protocol import limits
    from headwater_server.engine.settings import HOUR_US, EngineSettings
    from headwater_server.engine.work_budget import WORK_MAX

    said = " ".join(PAGE[PAGE.index("## Its limits") :].split())
    assert f"A key may have {limits.KEY_SIZE_MAX // limits.KIB} KiB" in said
    assert f"an event's data {limits.VALUE_SIZE_MAX // limits.MIB} MiB" in said
    assert f"a transaction {limits.TRANSACTION_SIZE_MAX // limits.MIB} MiB" in said
    assert f"and {limits.EVENTS_MAX:,} events" in said
    assert f"{(limits.BODY_SIZE_MAX - limits.MIB) // limits.MIB} MiB" in said
    assert f"more than {WORK_MAX:,} events and keys" in said
    engine = EngineSettings()
    assert engine.history_window_us == engine.transaction_age_us_max == HOUR_US
    assert engine.transaction_idle_us_max * 60 == HOUR_US
    assert engine.transaction_retention_us == 7 * 24 * HOUR_US


def test_keys_events_and_snapshots_are_written_together_or_not_at_all(
    db: headwater.BlockingDatabase, name: str
) -> None:
    def write(expect: int) -> None:
        with db.transaction() as tx:
            tx.put((name,), 1)
            tx.append(name, [Event("E")], expect=expect)
            tx.append(f"{name}-2", [Event("E")])
            tx.save_snapshot(name, version=1, state=1)

    with pytest.raises(headwater.WrongVersion):
        write(7)
    assert db.get((name,)) is None
    assert list(db.streams(prefix=name)) == []
    write(0)
    assert db.get((name,)) == 1
    assert [each.stream for each in db.streams(prefix=name)] == [name, f"{name}-2"]
    assert db.load(name).snapshot is not None


def test_a_transaction_whose_reads_have_changed_does_not_commit(
    db: headwater.BlockingDatabase, name: str
) -> None:
    reads: dict[str, Any] = {
        "an absent key": lambda tx: tx.get((name, "absent")),
        "a range": lambda tx: list(tx.scan((name,))),
        "a stream's version": lambda tx: tx.load(name).version,
        "a query": lambda tx: list(tx.read_all(stream=name)),
    }
    for what, read in reads.items():
        tx = db.transaction()
        with pytest.raises(headwater.Conflict), tx:
            read(tx)
            db.put((name, "absent"), what)
            db.append(name, Event("E"))
            tx.put((name, "result"), what)
        assert db.get((name, "result")) is None
        db.delete((name, "absent"))


def test_a_read_only_transaction_never_conflicts_and_ends_when_it_is_idle(tmp_path: Path) -> None:
    options = ("--transaction-idle", "0.5")
    with (
        ServerProcess(tmp_path, options) as server,
        headwater.connect_blocking(server.url) as db,
        headwater.connect_blocking(server.url) as other,
    ):
        db.put("k", 1)
        with db.transaction(read_only=True) as tx:
            assert tx.get("k") == 1
            for value in range(50):
                other.put("k", value)
            assert tx.get("k") == 1
        with pytest.raises(headwater.TransactionGone), db.transaction(read_only=True) as tx:
            assert tx.get("k") == 49
            # The server says when the transaction has ended.
            while other.stats()["open_transactions"]:
                pass
            tx.get("k")


def test_commits_and_positions_have_no_gaps(db: headwater.BlockingDatabase, name: str) -> None:
    first = db.ping().commit
    done = [db.append(name, [Event("E"), Event("E")]) for _ in range(10)]
    assert [each.commit for each in done] == list(range(first + 1, first + 11))
    positions = [event.position for event in db.read(name)]
    assert positions == list(range(positions[0], positions[0] + 20))


def test_what_was_acknowledged_survives_a_kill(tmp_path: Path) -> None:
    with ServerProcess(tmp_path) as server:
        with headwater.connect_blocking(server.url) as db:
            for number in range(20):
                db.append("s", Event("E", number))
        server.kill()
        server.start()
        with headwater.connect_blocking(server.url) as db:
            assert [event.data for event in db.read("s")] == list(range(20))


def test_a_transaction_that_is_resolved_as_aborted_never_commits(
    db: headwater.BlockingDatabase, name: str
) -> None:
    with pytest.raises(headwater.TransactionAborted), db.transaction() as tx:
        tx.get((name,))
        assert db.status(tx.id).state == "open"
        assert db.status(tx.id, resolve=True).state == "aborted"
        tx.put((name,), 1)
    assert db.get((name,)) is None
    with db.transaction() as tx:
        tx.put((name,), 2)
    assert db.status(tx.id, resolve=True).state == "committed"


def test_an_append_can_depend_on_a_query_over_all_streams(
    db: headwater.BlockingDatabase, name: str
) -> None:
    taken = headwater.Query(types=["Registered"], tags=[f"mail:{name}"])
    event = Event("Registered", tags=[f"mail:{name}"])
    db.append(f"user-{name}-1", event, unless=taken)
    with pytest.raises(headwater.ConditionFailed):
        db.append(f"user-{name}-2", event, unless=taken)


def test_a_snapshot_of_another_schema_is_ignored(db: headwater.BlockingDatabase, name: str) -> None:
    db.append(name, [Event("E", number) for number in range(3)])
    db.save_snapshot(name, version=2, state="of the old code", schema=1)
    old, new = db.load(name, schema=1), db.load(name, schema=2)
    assert old.snapshot is not None
    assert [event.version for event in old.events] == [3]
    assert new.snapshot is None
    assert [event.version for event in new.events] == [1, 2, 3]


def test_an_event_that_fails_parks_its_own_stream_only(
    db: headwater.BlockingDatabase, name: str
) -> None:
    @db.projection(name, category=name, attempts=1)
    def handle(tx: Any, event: headwater.RecordedEvent) -> None:
        if event.data == "bad":
            raise ValueError("cannot")
        tx.model.add(event.stream, 1)

    for stream, data in (("1", "bad"), ("1", "good"), ("2", "good")):
        last = db.append(f"{name}-{stream}", Event("E", data)).last_position
    assert last is not None
    with db.run_projections(name):
        db.wait_for(name, last)
    assert [one.stream for one in db.projections.parked(name)] == [f"{name}-1"]
    assert db.model(name).get(f"{name}-2") == 1


def test_an_acknowledgement_and_a_result_commit_together(
    db: headwater.BlockingDatabase, name: str
) -> None:
    db.append(f"{name}-1", Event("E"))
    db.groups.create(name, category=name)
    with db.join(name) as group:
        delivery = next(group)
        with pytest.raises(ZeroDivisionError), db.transaction() as tx:
            tx.add((name,), 1)
            tx.ack(delivery)
            raise ZeroDivisionError
        with db.transaction() as tx:
            tx.add((name,), 1)
            tx.ack(delivery)
        with pytest.raises(headwater.DeliveryLost), db.transaction() as tx:
            tx.add((name,), 1)
            tx.ack(delivery)
    assert db.get((name,)) == 1


def test_stored_events_are_upgraded_when_they_are_read(
    real_server: ServerProcess, name: str
) -> None:
    with headwater.connect_blocking(real_server.url) as old:
        old.append(name, Event("Paid", {"amount": 7}))
    types = headwater.EventTypes()
    types.register("Paid", schema=2)
    types.upcaster("Paid", 1, lambda data: {**data, "currency": "CHF"})
    codec = headwater.TypedCodec(types)
    with headwater.connect_blocking(real_server.url, codec=codec) as new:
        assert [event.data for event in new.read(name)] == [{"amount": 7, "currency": "CHF"}]


def test_keys_and_streams_can_be_read_as_of_an_earlier_commit(
    db: headwater.BlockingDatabase, name: str
) -> None:
    db.put((name,), 1)
    before = db.append(name, Event("E")).commit
    db.put((name,), 2)
    db.append(name, Event("E"))
    past = db.at(commit=before)
    assert past.get((name,)) == 1
    assert [event.version for event in past.read(name)] == [1]


def test_hidden_and_erased_events_are_gone_for_every_read(
    db: headwater.BlockingDatabase, name: str
) -> None:
    db.append(name, [Event("E", number) for number in range(4)])
    before = db.ping().commit
    with db.transaction() as tx:
        tx.truncate(name, before=3)
        # Inside of the transaction, too.
        assert [event.version for event in tx.read(name)] == [3, 4]
    assert [event.version for event in db.read_all(stream=name)] == [3, 4]
    db.erase(name, versions=[3])
    assert [event.data for event in db.at(commit=before).read(name, after=2)] == [None, 3]


def test_a_backup_can_be_checked_and_served(tmp_path: Path) -> None:
    backups = tmp_path / "backups"
    backups.mkdir()
    with ServerProcess(tmp_path, ("--backup-dir", str(backups))) as server:
        with headwater.connect_blocking(server.url) as db:
            db.put("k", 1)
            db.backup("monday")
            db.put("k", 2)
        assert "all is well" in call("check", str(backups / "monday"))
    (tmp_path / "restored").mkdir()
    call("restore", str(backups / "monday"), "--data", str(tmp_path / "restored" / "data"))
    with (
        ServerProcess(tmp_path / "restored") as restored,
        headwater.connect_blocking(restored.url) as db,
    ):
        assert db.get("k") == 1


def test_any_commit_is_restored_from_the_archive(tmp_path: Path) -> None:
    archive = tmp_path / "archive"
    archive.mkdir()
    with (
        ServerProcess(tmp_path, ("--archive", str(archive))) as server,
        headwater.connect_blocking(server.url) as db,
    ):
        commits = [db.put("k", number).commit for number in range(5)]
    assert "all is well" in call("check", str(archive))
    for number in (1, 4):
        (tmp_path / str(number)).mkdir()
        data = tmp_path / str(number) / "data"
        moment = ("--to-commit", str(commits[number]))
        call("restore", "--archive", str(archive), *moment, "--data", str(data))
        with (
            ServerProcess(tmp_path / str(number)) as restored,
            headwater.connect_blocking(restored.url) as db,
        ):
            assert db.get("k") == number


# What --help says of single commands. tests/cli has the others.


def test_a_ping_without_a_user_succeeds_where_one_is_required(tmp_path: Path) -> None:
    with ServerProcess(tmp_path) as server:
        with headwater.connect_blocking(server.url) as db:
            db.add_user("ann", "pencil")
        assert "up, and requires a user" in call("ping", "--url", server.url)


def test_a_consumer_without_a_server_ends_after_retry_timeout(tmp_path: Path) -> None:
    with ServerProcess(tmp_path) as server:
        ended: list[BaseException] = []

        def follow() -> None:
            try:
                with (
                    headwater.connect_blocking(server.url, retry_timeout=0.5) as db,
                    db.subscribe() as feed,
                ):
                    for _ in feed:
                        following.set()
            except headwater.ConnectionLost as error:
                ended.append(error)

        following = threading.Event()
        thread = threading.Thread(target=follow)
        thread.start()
        assert following.wait(30)
        server.kill()
        thread.join(30)
        assert len(ended) == 1
