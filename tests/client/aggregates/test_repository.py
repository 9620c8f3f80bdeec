"""Repositories, on a real server, and on a fake server that drops connections."""

import random
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from decimal import Decimal
from typing import Any

import pytest
import trio

import headwater
from headwater import Event, Repository
from headwater.aggregates.snapshot_check import check_snapshots
from headwater.cli.server_process import ServerProcess
from headwater.codecs.codec import MsgpackCodec, RawCodec
from headwater.reads.pages import SnapshotPages
from headwater.records import RecordedEvent
from tests.client.faces import FACES, run_on
from tests.client.fake_server import FakeServer


@dataclass(frozen=True)
class Account:
    balance: Decimal = Decimal(0)
    entries: tuple[str, ...] = ()


class BalanceTooLow(Exception):
    """The balance is too low."""


def evolve(account: Account, event: RecordedEvent) -> Account:
    sign = 1 if event.type == "Deposited" else -1
    return Account(account.balance + sign * event.data["amount"], (event.type,))


def deposit(account: Account, amount: int) -> Event:
    return Event("Deposited", {"amount": amount})


def withdraw(account: Account, amount: int) -> list[Event]:
    if account.balance < amount:
        raise BalanceTooLow(account.balance)
    return [Event("Withdrawn", {"amount": amount})]


ACCOUNTS = Repository(Account, evolve, snapshot_every=10, name="account")
EMPTY = Account()


@pytest.fixture(params=FACES)
def face(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def fresh(what: str, face: str) -> str:
    return f"{what.replace('-', '')}{face}-{random.randrange(1 << 40)}"


async def snapshots_of(db: headwater.Database, stream: str) -> dict[int, Any]:
    # Read raw bytes, because other tests store damaged snapshots.
    return {
        snapshot.version: MsgpackCodec().decode(snapshot.state)
        async for snapshot in SnapshotPages(db._channel.read, RawCodec())
        if snapshot.stream == stream
    }


def test_a_command_is_decided_on_the_state_and_appended(
    face: str, real_server: ServerProcess
) -> None:
    async def scenario(db: headwater.Database) -> None:
        accounts = ACCOUNTS.on(db)
        stream = fresh("decide", face)
        assert await accounts.load(stream) == (EMPTY, 0)
        decided = await accounts.decide(stream, deposit, 10)
        assert decided.version == 1
        assert decided.committed is not None
        assert decided.committed.versions == {stream: 1}
        with pytest.raises(BalanceTooLow):
            await accounts.decide(stream, withdraw, 11)
        await accounts.decide(stream, withdraw, 4)
        state, version = await accounts.load(stream)
        assert (state, version) == (Account(Decimal(6), ("Withdrawn",)), 2)

    run_on(face, real_server.url, scenario)


def test_a_decision_without_events_writes_nothing(face: str, real_server: ServerProcess) -> None:
    async def scenario(db: headwater.Database) -> None:
        stream = fresh("nothing", face)
        before = (await db.ping()).commit
        no_events: list[Any] = [None, []]
        for nothing in no_events:
            decided = await ACCOUNTS.on(db).decide(stream, lambda state, events: events, nothing)
            assert decided == headwater.Decided(headwater.StreamVersion(0), (), None)
        assert (await db.ping()).commit == before

    run_on(face, real_server.url, scenario)


def test_commands_that_are_data_are_passed_to_the_decide_function(
    face: str, real_server: ServerProcess
) -> None:
    def decide(account: Account, command: dict[str, int]) -> Event:
        (name, amount) = next(iter(command.items()))
        return deposit(account, amount) if name == "deposit" else withdraw(account, amount)[0]

    async def scenario(db: headwater.Database) -> None:
        accounts = Repository(Account, evolve, decide=decide).on(db)
        stream = fresh("data", face)
        await accounts.decide(stream, {"deposit": 5})
        await accounts.decide(stream, {"withdraw": 2})
        assert (await accounts.load(stream)).state.balance == 3

    run_on(face, real_server.url, scenario)


def test_a_load_reads_the_events_after_the_snapshot_and_no_others(
    real_server: ServerProcess,
) -> None:
    seen: list[int] = []

    def counting(account: Account, event: RecordedEvent) -> Account:
        seen.append(event.version)
        return evolve(account, event)

    async def scenario(db: headwater.Database) -> None:
        accounts = Repository(Account, counting, snapshot_every=10).on(db)
        stream = fresh("counted", "")
        for _ in range(45):
            await accounts.decide(stream, deposit, 1)
        # A decision that has read ten events saves the loaded state with its append, so the event
        # after version 40 saved a snapshot of version 40.
        assert max(await snapshots_of(db, stream)) == 40
        seen.clear()
        assert (await accounts.load(stream)).state.balance == 45
        assert seen == [41, 42, 43, 44, 45]

    run_on("trio", real_server.url, scenario)


def test_the_snapshot_and_the_append_are_of_one_commit(
    face: str, real_server: ServerProcess
) -> None:
    async def scenario(db: headwater.Database) -> None:
        accounts = ACCOUNTS.on(db)
        stream = fresh("onecommit", face)
        await accounts.save(stream, [deposit(EMPTY, 1) for _ in range(10)], 0)
        before = (await db.ping()).commit
        decided = await accounts.decide(stream, deposit, 1)
        assert decided.committed is not None
        assert decided.committed.commit == before + 1
        assert [*await snapshots_of(db, stream)] == [10]

    run_on(face, real_server.url, scenario)


def test_save_checks_the_version_and_saves_snapshots_regularly(
    face: str, real_server: ServerProcess
) -> None:
    async def scenario(db: headwater.Database) -> None:
        accounts = ACCOUNTS.on(db)
        stream = fresh("save", face)
        for version in range(0, 60, 3):
            await accounts.save(stream, [deposit(EMPTY, 1) for _ in range(3)], version)
        with pytest.raises(headwater.WrongVersion):
            await accounts.save(stream, deposit(EMPTY, 1), 59)
        kept = await snapshots_of(db, stream)
        assert kept
        assert all(state["balance"] == version for version, state in kept.items())
        assert 60 - max(kept) < 20
        assert (await accounts.load(stream)).state.balance == 60

    run_on(face, real_server.url, scenario)


@pytest.mark.parametrize("size", [1, 2, 7])
def test_a_load_of_what_was_saved_reads_about_as_many_events_as_a_snapshot_is_made_of(
    size: int, real_server: ServerProcess
) -> None:
    """The first snapshot came after twice as many, if single events were saved."""

    async def scenario(db: headwater.Database) -> None:
        accounts = ACCOUNTS.on(db)
        every = ACCOUNTS.snapshot_every or 0
        stream = fresh("saved", str(size))
        version = 0
        while version < 5 * every:
            await accounts.save(stream, [deposit(EMPTY, 1) for _ in range(size)], version)
            version += size
            newest = max(await snapshots_of(db, stream), default=0)
            assert version - newest < every + 2 * size

    run_on("trio", real_server.url, scenario)


def test_concurrent_decisions_on_one_stream_all_succeed(real_server: ServerProcess) -> None:
    async def scenario(db: headwater.Database) -> None:
        accounts = ACCOUNTS.on(db)
        stream = fresh("contended", "")
        async with trio.open_nursery() as nursery:
            for _ in range(8):
                nursery.start_soon(accounts.decide, stream, deposit, 1)
        assert await accounts.load(stream) == (Account(Decimal(8), ("Deposited",)), 8)

    run_on("trio", real_server.url, scenario)


def test_decisions_of_a_transaction_on_several_streams_commit_together_or_not_at_all(
    face: str, real_server: ServerProcess
) -> None:
    async def scenario(db: headwater.Database) -> None:
        ann, bob = fresh("transferann", face), fresh("transferbob", face)
        await ACCOUNTS.on(db).decide(ann, deposit, 10)

        async def transfer(tx: headwater.Transaction, amount: int) -> None:
            accounts = ACCOUNTS.on(tx)
            await accounts.decide(bob, deposit, amount)
            assert (await accounts.load(bob)).state.balance >= amount
            await accounts.decide(ann, withdraw, amount)
            await accounts.save(bob, deposit(EMPTY, 0), (await accounts.load(bob)).version)

        await db.run(transfer, 4)
        with pytest.raises(BalanceTooLow):
            await db.run(transfer, 7)
        assert (await ACCOUNTS.on(db).load(ann)).state.balance == 6
        assert (await ACCOUNTS.on(db).load(bob)).state.balance == 4

    run_on(face, real_server.url, scenario)


def test_the_past_can_be_loaded_and_not_changed(face: str, real_server: ServerProcess) -> None:
    async def scenario(db: headwater.Database) -> None:
        stream = fresh("past", face)
        for _ in range(25):
            decided = await ACCOUNTS.on(db).decide(stream, deposit, 1)
            if decided.version == 17:
                assert decided.committed is not None
                past = ACCOUNTS.on(db.at(commit=decided.committed.commit))
        assert await past.load(stream) == (Account(Decimal(17), ("Deposited",)), 17)
        with pytest.raises(headwater.InvalidArgument, match="the past cannot be changed"):
            await past.decide(stream, deposit, 1)
        with pytest.raises(headwater.InvalidArgument, match="the past cannot be changed"):
            await past.save(stream, deposit(EMPTY, 1), 17)

    run_on(face, real_server.url, scenario)


def test_no_snapshot_is_made_of_events_that_are_not_committed(
    face: str, real_server: ServerProcess
) -> None:
    async def scenario(db: headwater.Database) -> None:
        stream = fresh("uncommitted", face)
        async with db.transaction() as tx:
            for _ in range(25):
                await ACCOUNTS.on(tx).decide(stream, deposit, 1)
        assert await snapshots_of(db, stream) == {}

    run_on(face, real_server.url, scenario)


def test_repositories_of_different_schemas_have_separate_snapshots(
    face: str, real_server: ServerProcess
) -> None:
    def tripled(account: Account, event: RecordedEvent) -> Account:
        return evolve(account, replace(event, data={"amount": event.data["amount"] * 3}))

    newer = Repository(Account, tripled, schema=2, snapshot_every=10, name="account")

    async def scenario(db: headwater.Database) -> None:
        stream = fresh("schemas", face)
        for _ in range(15):
            await ACCOUNTS.on(db).decide(stream, deposit, 1)
            await newer.on(db).decide(stream, deposit, 1)
        assert (await ACCOUNTS.on(db).load(stream)).state.balance == 30
        assert (await newer.on(db).load(stream)).state.balance == 90
        schemas = {
            (kept.schema, kept.name) async for kept in db.snapshots() if kept.stream == stream
        }
        assert schemas == {(1, "account"), (2, "account")}

    run_on(face, real_server.url, scenario)


@pytest.mark.parametrize("damaged", [b"\xc1", "no account", {"balance": {}, "entries": 1}])
def test_a_snapshot_that_cannot_be_decoded_is_ignored(
    face: str, damaged: Any, real_server: ServerProcess
) -> None:
    async def scenario(db: headwater.Database) -> None:
        accounts = ACCOUNTS.on(db)
        stream = fresh("damaged", face)
        await accounts.save(stream, [deposit(EMPTY, 1) for _ in range(5)], 0)
        tx = db.transaction()
        async with tx:
            tx.save_snapshot(stream, version=5, state=damaged, schema=1, name="account")
            if damaged == b"\xc1":
                # Replace the encoded state by bytes that cannot be decoded.
                tx._writes[-1][-1] = damaged
        assert (await accounts.load(stream)).state.balance == 5
        await accounts.decide(stream, deposit, 1)
        assert (await accounts.load(stream)).state.balance == 6

    run_on(face, real_server.url, scenario)


@pytest.mark.parametrize("damaged", [b"\xc1", "no account"])
def test_an_older_snapshot_that_can_be_read_is_used_instead_of_newer_ones_that_cannot(
    face: str, damaged: Any, real_server: ServerProcess
) -> None:
    # One that could not be read hid the older ones, and the stream, which is truncated, could not
    # be loaded any more.
    async def scenario(db: headwater.Database) -> None:
        accounts = ACCOUNTS.on(db)
        stream = fresh("hidden", face)
        await accounts.save(stream, [deposit(EMPTY, 1) for _ in range(8)], 0)
        sound = {"balance": Decimal(5), "entries": ["Deposited"]}
        tx = db.transaction()
        async with tx:
            for version, state in ((5, sound), (7, damaged), (8, damaged)):
                tx.save_snapshot(stream, version=version, state=state, schema=1, name="account")
                if state == b"\xc1":
                    # Replace the encoded state by bytes that cannot be decoded.
                    tx._writes[-1][5] = state
        truncated = await db.truncate(stream, before=6)
        assert await accounts.load(stream) == (Account(Decimal(8), ("Deposited",)), 8)
        loaded = await db.load(stream, schema=1, name="account", snapshot_below=7)
        assert loaded.snapshot is not None
        assert (loaded.snapshot.version, loaded.is_whole) == (5, True)
        batch = db.batch()
        batch.load(stream, schema=1, name="account", snapshot_below=6)
        (loaded,) = (await db.execute(batch)).results
        assert loaded.snapshot is not None
        assert loaded.snapshot.version == 5
        async with db.transaction() as tx:
            assert (await ACCOUNTS.on(tx).load(stream)).state.balance == 8
        past = db.at(commit=truncated.commit)
        assert (await ACCOUNTS.on(past).load(stream)).state.balance == 8
        loaded = await db.load(stream, schema=1, name="account", snapshot_below=5)
        assert (loaded.snapshot, loaded.is_whole) == (None, False)
        with pytest.raises(headwater.StreamTruncated):
            await db.truncate(stream, before=7)
            await accounts.load(stream)

    run_on(face, real_server.url, scenario)


def test_a_state_that_would_be_decoded_differently_is_not_saved(
    face: str, real_server: ServerProcess
) -> None:
    async def scenario(db: headwater.Database) -> None:
        stream = fresh("tuples", face)
        repository: Repository[Any] = Repository(
            {"types": ()},
            lambda state, event: {"types": (*state["types"], event.type)},
            snapshot_every=2,
        )
        tuples = repository.on(db)
        await tuples.save(stream, [Event("A"), Event("B")], 0)
        with pytest.warns(RuntimeWarning, match="would be decoded as another"):
            await tuples.decide(stream, lambda state: Event("C"))
        assert await snapshots_of(db, stream) == {}
        assert (await tuples.load(stream)).state == {"types": ("A", "B", "C")}

    run_on(face, real_server.url, scenario)


def test_an_evolve_that_changes_its_state_in_place_does_not_affect_other_loads(
    face: str, real_server: ServerProcess
) -> None:
    @dataclass
    class Basket:
        items: list[str] = field(default_factory=list)

    def add(basket: Basket, event: RecordedEvent) -> Basket:
        basket.items.append(event.type)
        return basket

    def clearing(basket: Basket) -> Event:
        basket.items.clear()
        return Event("Cleared")

    async def scenario(db: headwater.Database) -> None:
        stream = fresh("inplace", face)
        baskets = Repository(Basket(), add, snapshot_every=2).on(db)
        await baskets.save(stream, [Event("A"), Event("B")], 0)
        for _ in range(2):
            assert (await baskets.load(stream)).state.items == ["A", "B"]
        await baskets.decide(stream, clearing)
        assert await snapshots_of(db, stream) == {2: {"items": ["A", "B"]}}
        for _ in range(2):
            assert (await baskets.load(stream)).state.items == ["A", "B", "Cleared"]
        assert (await baskets.load(stream + "none")).state.items == []

    run_on(face, real_server.url, scenario)


def test_a_command_that_changes_its_state_does_not_change_the_snapshot(
    face: str, real_server: ServerProcess
) -> None:
    async def scenario(db: headwater.Database) -> None:
        stream = fresh("clearing", face)
        lists: Repository[list[str]] = Repository(
            [], lambda state, event: [*state, event.type], snapshot_every=2
        )

        def clearing(state: list[str]) -> Event:
            state.clear()
            return Event("C")

        await lists.on(db).save(stream, [Event("A"), Event("B")], 0)
        await lists.on(db).decide(stream, clearing)
        assert await snapshots_of(db, stream) == {2: ["A", "B"]}
        assert (await lists.on(db).load(stream)).state == ["A", "B", "C"]

    run_on(face, real_server.url, scenario)


def test_a_decision_on_an_old_view_conflicts_at_both_isolation_levels(
    face: str, real_server: ServerProcess
) -> None:
    async def scenario(db: headwater.Database) -> None:
        stream = fresh("isolation", face)
        await ACCOUNTS.on(db).decide(stream, deposit, 10)
        for isolation in ("serializable", "snapshot"):
            with pytest.raises(headwater.Conflict):
                async with db.transaction(isolation=isolation) as tx:
                    await ACCOUNTS.on(tx).decide(stream, withdraw, 10)
                    await ACCOUNTS.on(db).decide(stream, deposit, 1)

    run_on(face, real_server.url, scenario)


def test_loaded_states_do_not_depend_on_snapshots(
    real_server: ServerProcess,
) -> None:
    seed = random.randrange(1 << 30)
    print("seed", seed)
    source = random.Random(seed)

    async def scenario(db: headwater.Database) -> None:
        stream = fresh("random", "")
        model = Decimal(0)
        for _ in range(60):
            every = source.choice([1, 2, 7, None])
            accounts = Repository(Account, evolve, snapshot_every=every).on(db)
            amount = source.randrange(100)
            if source.random() < 0.3:
                _, version = await accounts.load(stream)
                await accounts.save(stream, [deposit(EMPTY, amount)] * 3, version)
                model += 3 * amount
            else:
                await accounts.decide(stream, deposit, amount)
                model += amount
            assert (await accounts.load(stream)).state.balance == model
        everything = Repository(Account, evolve)
        verdicts = [
            checked.verdict async for checked in check_snapshots(db, everything, prefix=stream)
        ]
        assert verdicts
        assert set(verdicts) == {"equal"}

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        run_on("trio", real_server.url, scenario)


# Truncated streams and erased events.


def test_a_truncated_stream_is_loaded_from_its_snapshot_which_cannot_be_verified(
    face: str, real_server: ServerProcess
) -> None:
    async def scenario(db: headwater.Database) -> None:
        accounts = ACCOUNTS.on(db)
        stream = fresh("truncated", face)
        for _ in range(25):
            await accounts.decide(stream, deposit, 1)
        assert await snapshots_of(db, stream) == {
            10: {"balance": 10, "entries": ["Deposited"]},
            20: {"balance": 20, "entries": ["Deposited"]},
        }
        await db.truncate(stream, before=15)
        assert (await accounts.load(stream)).state.balance == 25
        await accounts.decide(stream, deposit, 1)
        assert (await accounts.load(stream)).state.balance == 26
        assert await verdicts(db, ACCOUNTS, stream) == [(20, "gone")]
        # Later snapshots are compared with the oldest remaining one and the events after it.
        for version, balance in ((22, 22), (24, 25)):
            state = {"balance": Decimal(balance), "entries": ["Deposited"]}
            await db.save_snapshot(stream, version=version, state=state, schema=1, name="account")
        assert await verdicts(db, ACCOUNTS, stream) == [(22, "gone"), (24, "differs")]

    run_on(face, real_server.url, scenario)


async def verdicts(
    db: headwater.Database, repository: Repository[Any], stream: str
) -> list[tuple[int, str]]:
    found = check_snapshots(db, repository, prefix=stream)
    return [(checked.version, checked.verdict) async for checked in found]


@pytest.mark.parametrize("hide", ["truncate", "all", "count"])
def test_loading_a_truncated_stream_without_a_snapshot_is_refused(
    hide: str, face: str, real_server: ServerProcess
) -> None:
    # A load used to start from the first remaining event, and returned balances that never existed.
    async def scenario(db: headwater.Database) -> None:
        stream = fresh(hide, face)
        for _ in range(25):
            await ACCOUNTS.on(db).decide(stream, deposit, 1)
        changed = replace_schema(ACCOUNTS, 2)
        assert (await changed.on(db).load(stream)).state.balance == 25
        if hide == "count":
            await db.set_retention(stream, max_count=7)
        else:
            await db.truncate(stream, before=19 if hide == "truncate" else 26)
        first = 26 if hide == "all" else 19
        accounts = changed.on(db)
        with pytest.raises(headwater.StreamTruncated, match="no snapshot 'account' of schema 2"):
            await accounts.load(stream)
        with pytest.raises(headwater.StreamTruncated) as refused:
            await accounts.decide(stream, deposit, 1)
        assert refused.value.details == {
            "stream": stream,
            "version": 25,
            "first": first,
            "begins": 1,
        }
        assert not refused.value.retryable
        async with db.transaction() as tx:
            with pytest.raises(headwater.StreamTruncated):
                await changed.on(tx).load(stream)
        with pytest.raises(headwater.StreamTruncated):
            await changed.on(db.at(commit=(await db.ping()).commit)).load(stream)
        assert await verdicts(db, changed, stream) == (
            [(25, "missing")] if await snapshots_of(db, stream) else []
        )

        # An append without a load still works, but saves no snapshot.
        with pytest.warns(RuntimeWarning, match="no snapshot is saved: stream .* was truncated"):
            await accounts.save(stream, [deposit(EMPTY, 1)] * 10, 25)
        assert 25 not in await snapshots_of(db, stream)

    run_on(face, real_server.url, scenario)


def replace_schema(repository: Repository[Account], schema: int) -> Repository[Account]:
    return Repository(Account, evolve, snapshot_every=10, name=repository.name, schema=schema)


def test_a_truncated_stream_can_be_used_with_a_new_schema_after_its_snapshot_is_migrated(
    face: str, real_server: ServerProcess
) -> None:
    async def scenario(db: headwater.Database) -> None:
        stream = fresh("migrated", face)
        for _ in range(25):
            await ACCOUNTS.on(db).decide(stream, deposit, 1)
        await db.truncate(stream, before=21)
        changed = replace_schema(ACCOUNTS, 2)
        assert await verdicts(db, changed, stream) == [(25, "missing")]
        state, version = await ACCOUNTS.on(db).load(stream)
        await db.save_snapshot(
            stream, version=version, state=changed.dump_state(state), schema=2, name="account"
        )
        assert (await changed.on(db).load(stream)).state.balance == 25
        assert await verdicts(db, changed, stream) == [(25, "gone")]

    run_on(face, real_server.url, scenario)


def test_a_deleted_stream_starts_again_from_the_initial_state(
    face: str, real_server: ServerProcess
) -> None:
    async def scenario(db: headwater.Database) -> None:
        accounts = ACCOUNTS.on(db)
        stream = fresh("anew", face)
        for _ in range(15):
            await accounts.decide(stream, deposit, 1)
        await db.delete_stream(stream)
        assert await accounts.load(stream) == (EMPTY, 0)
        # Whoever loaded it before the deletion does not bring it back.
        with pytest.raises(headwater.WrongVersion, match="was deleted, at version 15"):
            await accounts.save(stream, deposit(EMPTY, 1), 15)
        assert (await accounts.decide(stream, deposit, 2)).version == 16
        for _ in range(14):
            await accounts.decide(stream, deposit, 2)
        assert (await accounts.load(stream)).state.balance == 30
        assert (await replace_schema(ACCOUNTS, 2).on(db).load(stream)).state.balance == 30
        assert await verdicts(db, ACCOUNTS, stream) == [(25, "equal")]
        info = await anext(db.streams(prefix=stream))
        assert (info.begins, info.first, info.version) == (16, 16, 30)
        await db.truncate(stream, before=28)
        with pytest.raises(headwater.StreamTruncated, match="it begins at version 16, its events"):
            await replace_schema(ACCOUNTS, 2).on(db).load(stream)

    run_on(face, real_server.url, scenario)


def test_a_snapshot_of_events_that_were_erased_since_they_were_loaded_is_refused(
    face: str, real_server: ServerProcess
) -> None:
    async def scenario(db: headwater.Database) -> None:
        stream = fresh("late", face)
        await db.append(stream, [Event("Registered", {"name": "Ann"}), Event("Moved", {})])
        loaded = await db.load(stream, schema=2)
        await db.erase(stream, versions=[1])
        with pytest.raises(headwater.Conflict, match="conflict on snapshot") as caught:
            await db.save_snapshot(
                stream, version=2, state={"name": "Ann"}, schema=2, read_at=loaded.commit
            )
        assert not caught.value.retryable
        with pytest.raises(headwater.InvalidArgument, match="Say at which commit"):
            await db.save_snapshot(stream, version=2, state={"name": "Ann"}, schema=2)
        assert (await db.load(stream, schema=2)).snapshot is None
        loaded = await db.load(stream, schema=2)
        await db.save_snapshot(
            stream, version=2, state={"name": None}, schema=2, read_at=loaded.commit
        )
        assert (await db.load(stream, schema=2)).snapshot == headwater.Snapshot(
            headwater.StreamVersion(2), {"name": None}
        )

    run_on(face, real_server.url, scenario)


def test_a_summary_event_replaces_the_events_before_it(
    face: str, real_server: ServerProcess
) -> None:
    def carry(account: Account) -> Event:
        return Event("Carried", {"balance": account.balance})

    def evolve_carried(account: Account, event: RecordedEvent) -> Account:
        if event.type == "Carried":
            return Account(event.data["balance"], ("Carried",))
        return evolve(account, event)

    books = Repository(
        Account, evolve_carried, snapshot_every=None, name="books", summaries=["Carried"]
    )

    async def scenario(db: headwater.Database) -> None:
        accounts = books.on(db)
        stream = fresh("books", face)
        for _ in range(4):
            await accounts.decide(stream, deposit, 1)
        carried = await accounts.decide(stream, carry)
        await accounts.decide(stream, deposit, 1)
        for before in (2, carried.version):
            await db.truncate(stream, before=before)
            assert (await accounts.load(stream)).state.balance == 5
        await db.save_snapshot(
            stream, version=6, state={"balance": 6, "entries": []}, schema=1, name="books"
        )
        assert await verdicts(db, books, stream) == [(6, "differs")]
        await db.erase(stream, versions=[carried.version])
        with pytest.raises(headwater.StreamTruncated):
            await accounts.load(stream)

    run_on(face, real_server.url, scenario)
    with pytest.raises(headwater.InvalidArgument, match="summaries: expected a list"):
        Repository(Account, evolve, summaries="Carried")


def test_evolve_gets_erased_events_without_data_and_its_error_mentions_the_erasure(
    face: str, real_server: ServerProcess
) -> None:
    def evolve_without_erased(account: Account, event: RecordedEvent) -> Account:
        return account if event.erased else evolve(account, event)

    skips_erased = Repository(Account, evolve_without_erased, snapshot_every=10, name="account")

    async def scenario(db: headwater.Database) -> None:
        stream = fresh("erased", face)
        for _ in range(12):
            await ACCOUNTS.on(db).decide(stream, deposit, 1)
        assert (await skips_erased.on(db).load(stream)).state.balance == 12
        await db.erase(stream, versions=[3])
        # The snapshot contained the erased event, so it was removed. A load starts from the events.
        assert await snapshots_of(db, stream) == {}
        assert (await skips_erased.on(db).load(stream)).state.balance == 11
        await skips_erased.on(db).decide(stream, deposit, 1)
        assert (await snapshots_of(db, stream))[12]["balance"] == 11
        assert await verdicts(db, skips_erased, stream) == [(12, "equal")]
        with pytest.raises(TypeError) as failed:
            await replace_schema(ACCOUNTS, 2).on(db).load(stream)
        (note,) = failed.value.__notes__
        assert note.startswith(f"event 3 of {stream} (Deposited) was erased: its data is None")

    run_on(face, real_server.url, scenario)


# A lost connection.


@pytest.fixture
def server() -> Iterator[FakeServer]:
    with FakeServer() as server:
        server.on("load", [7, 0, None, [], False, 1])
        yield server


def test_a_decision_whose_answer_is_lost_commits_once(face: str, server: FakeServer) -> None:
    server.on("commit", server.DROP)
    server.on("status", ["committed", [8, 1_000_000, 1, 1, {"a": 1}]])

    async def scenario(db: headwater.Database) -> None:
        decided = await ACCOUNTS.on(db).decide("a", deposit, 1)
        assert decided.committed is not None
        assert decided.committed.commit == 8

    run_on(face, server.url, scenario)
    assert len(server.named("commit")) == 1


def test_a_decision_is_repeated_after_a_conflict_up_to_a_number_of_attempts(
    face: str, server: FakeServer
) -> None:
    server.on("commit", headwater.Conflict("a"))

    async def scenario(db: headwater.Database) -> None:
        with pytest.raises(headwater.Conflict):
            await ACCOUNTS.on(db).decide("a", deposit, 1, attempts=3)

    run_on(face, server.url, scenario)
    assert len(server.named("load")) == 3


# The blocking face.


def test_a_repository_works_with_the_blocking_face(real_server: ServerProcess) -> None:
    stream = fresh("blocking", "")
    with headwater.connect_blocking(real_server.url) as db:
        accounts = ACCOUNTS.on(db)
        assert accounts.decide(stream, deposit, 7).version == 1
        accounts.save(stream, deposit(EMPTY, 1), 1)
        with db.transaction() as tx:
            ACCOUNTS.on(tx).decide(stream, withdraw, 3)
        state, version = accounts.load(stream)
        assert state.balance == 5
        assert version == 3
        assert isinstance(accounts, headwater.BlockingAggregates)
        db.truncate(stream, before=2)
        with pytest.raises(headwater.StreamTruncated):
            accounts.load(stream)
        assert db.load(stream).is_whole is False
        db.delete_stream(stream)
        assert accounts.load(stream) == (EMPTY, 0)
        accounts.save(stream, deposit(EMPTY, 5), 0)
        state, version = accounts.load(stream)
        assert (int(state.balance), int(version)) == (5, 4)
        assert ACCOUNTS.on(db.at(commit=db.ping().commit)).load(stream) == (state, version)


# Bad use.


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"schema": -1}, "schema"),
        ({"snapshot_every": 0}, "snapshot_every: 0"),
        ({"dump": str}, "give both dump= and load=, or neither"),
        ({"name": "\0"}, "name"),
        ({"evolve": 5}, "evolve: expected a function, got 5"),
        ({"decide": "x"}, "decide: expected a function, got 'x'"),
    ],
)
def test_invalid_arguments_of_a_repository_are_refused(arguments: Any, message: str) -> None:
    with pytest.raises(headwater.InvalidArgument, match=message):
        Repository(**{"initial": Account, "evolve": evolve, **arguments})


def test_coroutines_and_other_wrong_arguments_are_refused_instead_of_functions(
    real_server: ServerProcess,
) -> None:
    async def evolves(state: Account, event: RecordedEvent) -> Account:
        return state

    async def decides(state: Account) -> Event:
        return Event("x")

    with pytest.raises(headwater.InvalidArgument, match="not an `async def`"):
        Repository(Account, evolves)  # type: ignore[misc]
    with headwater.connect_blocking(real_server.url) as db:
        with pytest.raises(headwater.InvalidArgument, match="not an `async def`"):
            ACCOUNTS.on(db).decide("a", decides)
        with pytest.raises(headwater.InvalidArgument, match="is not a function"):
            ACCOUNTS.on(db).decide("a", {"deposit": 1})
        with pytest.raises(headwater.InvalidArgument, match=r"decide: events: .*got 5"):
            ACCOUNTS.on(db).decide("a", lambda account: 5)
        with pytest.raises(headwater.InvalidArgument, match=r"save: events: .*got 5"):
            ACCOUNTS.on(db).save("a", 5, 0)  # type: ignore[arg-type]
        with pytest.raises(headwater.InvalidArgument, match="a database or a transaction"):
            ACCOUNTS.on("db")  # type: ignore[call-overload]
