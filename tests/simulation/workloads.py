"""The workloads. Each function is one action of one client; the plan says how often each runs.

bank          transfers; the total never changes
lists         Elle's: append to lists under keys and to streams, and read them
counters      add without reading
skew          write skew: of each pair, one must stay set
predicates    inserts and deletes that depend on a scan
streams       appends that expect a version, to several streams at once
rules         numbers without gaps over several streams: query by tags, then append
aggregates    load, decide, append, sometimes a snapshot of the state
past          reads as of earlier commits
long reads    a read view that stays open while others write
batches       a whole transaction in one round trip, with conditions
outcomes      ask for the outcome of a transaction, or abort it
aging         streams with a maximum age, read repeatedly in one view
hollow        writes that change nothing, and queries for their outcome
kept          streams that are truncated, capped, deleted, and whose events are erased
leases        keys that expire; see leases.py
"""

from collections.abc import Awaitable, Callable, Mapping
from typing import Final

import trio

import headwater
from tests.simulation.ages import CATEGORY, stream_kept_for
from tests.simulation.history import (
    Add,
    Append,
    Get,
    NoEvents,
    Operation,
    Put,
)
from tests.simulation.leases import leases
from tests.simulation.model import fold
from tests.simulation.recorder import Recorder, Recording, event_of
from tests.simulation.unreadable import MARK

ACCOUNTS: Final = 6
BALANCE: Final = 100
LISTS: Final = 4
PAIRS: Final = 3
AGGREGATES: Final = 3
SNAPSHOT_EVERY: Final = 3
KEPT: Final = 3
AGES_MS: Final = (200, 1000, 3000)


async def prepare(recorder: Recorder) -> None:
    """Write the data that the other workloads need."""

    async def body(transaction: Recording) -> None:
        for account in range(ACCOUNTS):
            transaction.put(("bank", account), BALANCE)
        for pair in range(PAIRS):
            for side in range(2):
                transaction.put(("skew", pair, side), 1)

    await recorder.run("prepare", body)


def element(recorder: Recorder) -> str:
    """A new element, which was never written before."""
    recorder.history.ticks += 1
    return f"{recorder.client}.{recorder.history.ticks}"


def event_element(recorder: Recorder) -> str:
    """A new element for an event. Some of these events cannot be decoded."""
    is_marked = recorder.dice.random() < recorder.unreadable
    return (MARK if is_marked else "") + element(recorder)


def _isolation(recorder: Recorder) -> headwater.Isolation:
    return recorder.dice.choice(("serializable", "serializable", "snapshot"))


async def bank(recorder: Recorder) -> None:
    dice = recorder.dice
    if dice.random() < 0.3:
        async with recorder.transaction("bank audit", read_only=dice.random() < 0.7) as audit:
            await audit.scan(("bank",))
        return
    source, target = dice.sample(range(ACCOUNTS), 2)
    amount = dice.randint(1, 20)

    async def transfer(transaction: Recording) -> None:
        balance = await transaction.get(("bank", source)) or 0
        if balance >= amount:
            transaction.put(("bank", source), balance - amount)
            if dice.random() < 0.5:
                transaction.add(("bank", target), amount)
            else:
                other = await transaction.get(("bank", target)) or 0
                transaction.put(("bank", target), other + amount)

    if dice.random() < 0.5:
        await recorder.run("bank", transfer, isolation=_isolation(recorder))
    else:
        async with recorder.transaction("bank", isolation=_isolation(recorder)) as transaction:
            await transfer(transaction)


async def lists(recorder: Recorder) -> None:
    dice = recorder.dice
    isolation = _isolation(recorder)
    async with recorder.transaction("lists", isolation=isolation) as transaction:
        for _ in range(dice.randint(1, 4)):
            number = dice.randrange(LISTS)
            stream = f"list-{number}"
            match dice.choice(("get", "put", "read", "append")):
                case "get":
                    await transaction.get(("list", number))
                case "put":
                    found = await transaction.get(("list", number)) or []
                    transaction.put(("list", number), [*found, element(recorder)])
                case "read":
                    await transaction.read(stream)
                case _:
                    expect = headwater.ANY
                    if isolation == "snapshot":
                        # Without an expected version, it could follow elements that it did not see.
                        expect = len(await transaction.read(stream))
                    transaction.append(stream, [(event_element(recorder), "Listed")], expect=expect)


async def counters(recorder: Recorder) -> None:
    dice = recorder.dice
    key = ("counter", dice.randrange(2))
    number = dice.randint(1, 9)
    match dice.choice(("once", "in transaction", "read", "then read")):
        case "once":
            database = recorder.database
            await recorder.write(
                "counters", Add(key, number), call=lambda: database.add(key, number)
            )
        case "in transaction":
            isolation = _isolation(recorder)
            async with recorder.transaction("counters", isolation=isolation) as transaction:
                transaction.add(key, number)
                transaction.add(("counter", 2), 1)
        case "read":
            async with recorder.reading("counters") as reading:
                await reading.get(key)
        case _:
            async with recorder.transaction("counters") as transaction:
                transaction.add(key, number)
                await transaction.get(key)


async def skew(recorder: Recorder) -> None:
    dice = recorder.dice
    pair = dice.randrange(PAIRS)
    side = dice.randrange(2)
    async with recorder.transaction("skew") as transaction:
        if dice.random() < 0.5:
            mine = await transaction.get(("skew", pair, side))
            other = await transaction.get(("skew", pair, 1 - side))
        else:
            found = dict(await transaction.scan(("skew", pair)))
            mine, other = found.get(("skew", pair, side)), found.get(("skew", pair, 1 - side))
        if mine and other:
            transaction.put(("skew", pair, side), 0)
        elif not mine:
            transaction.put(("skew", pair, side), 1)


async def predicates(recorder: Recorder) -> None:
    dice = recorder.dice
    prefix = ("set", dice.randrange(2))
    async with recorder.transaction("predicates", isolation=_isolation(recorder)) as transaction:
        limit = dice.choice((None, 1, 3))
        found = await transaction.scan(prefix, limit=limit, reverse=dice.random() < 0.3)
        number = dice.randrange(8)
        match dice.choice(("insert", "insert", "delete", "clear", "look")):
            case "insert":
                transaction.put((*prefix, number), element(recorder))
            case "delete" if found:
                transaction.delete(dice.choice(found)[0])
            case "clear":
                transaction.delete_range(prefix)
                transaction.put((*prefix, number), len(found))
            case _:
                await transaction.get((*prefix, number))


async def streams(recorder: Recorder) -> None:
    dice = recorder.dice
    names = dice.sample(["order-1", "order-2", "invoice-1", "note"], dice.randint(1, 2))
    if dice.random() < 0.25:
        async with recorder.transaction("streams") as transaction:
            # A query, and an append that requires that no matching event was added since.
            found = await transaction.query(
                category=dice.choice((None, "order")), kind=dice.choice((None, "Paid"))
            )
            if len(found) % 2 == 0:
                transaction.append("note", [(event_element(recorder), "Paid")])
        return
    isolation = _isolation(recorder)
    async with recorder.transaction("streams", isolation=isolation) as transaction:
        for name in names:
            version = len(await transaction.read(name))
            count = dice.choice((1, 1, 2, 5))
            new = [(event_element(recorder), dice.choice(("Paid", "Sent"))) for _ in range(count)]
            transaction.append(name, new, expect=version)
        if dice.random() < 0.3:
            await transaction.read(names[0])


async def rules(recorder: Recorder) -> None:
    dice = recorder.dice
    tags = dice.choice((("red",), ("red", "odd"), ("blue",)))
    new = (event_element(recorder) + "#" + "#".join(tags), "Ruled")
    stream = f"rule-{dice.randrange(3)}"
    if dice.random() < 0.3:
        async with recorder.reading("rules") as reading:
            await reading.query(tags=tags, kind=dice.choice((None, "Ruled")))
            after = reading.position
        if not reading.attempt.operations:
            return
        await recorder.write(
            "rules",
            NoEvents(tags, after),
            Append(stream, [new]),
            call=lambda: recorder.database.append(
                stream, event_of(*new), unless=headwater.Query(tags=tags), after=after
            ),
        )
        return
    isolation = _isolation(recorder)

    async def decide(transaction: Recording) -> None:
        found = await transaction.query(tags=tags)
        transaction.put(("rules", *tags), len(found) + 1)
        # A serializable transaction checks the query in any case.
        checked = isolation == "snapshot" or dice.random() < 0.3
        transaction.append(stream, [new], unless=tags if checked else ())

    await recorder.run("rules", decide, isolation=isolation)


async def aggregates(recorder: Recorder) -> None:
    dice = recorder.dice
    stream = f"aggregate-{dice.randrange(AGGREGATES)}"
    schema = dice.choice((1, 1, 1, 2))
    if dice.random() < 0.3:
        async with recorder.reading("aggregates") as reading:
            await reading.load(stream, schema)
        return

    async def change(transaction: Recording) -> None:
        version, state = await transaction.load(stream, schema)
        new = event_element(recorder)
        transaction.append(stream, [(new, "Changed")], expect=version)
        if (version + 1) % SNAPSHOT_EVERY == 0:
            transaction.save(stream, version + 1, schema, fold(schema, [new], state))

    await recorder.run("aggregates", change, isolation=_isolation(recorder))


async def past(recorder: Recorder) -> None:
    dice = recorder.dice
    commit = dice.randint(0, recorder.history.acknowledged)
    if dice.random() < 0.5:
        # Mostly recent commits, because old ones cannot be read. The newest are still in memory.
        commit = max(0, recorder.history.acknowledged - dice.choice((0, 1, 2, 3, 5, 8, 13, 21)))
    async with recorder.reading("past", at_commit=commit) as reading:
        match dice.choice(("get", "scan", "read", "query", "load")):
            case "get":
                # There are few keys, so each is written often.
                for number in range(3):
                    await reading.get(("bank", number))
                    await reading.get(("counter", number))
            case "scan":
                await reading.scan((), reverse=dice.random() < 0.3)
            case "read":
                await reading.read(f"list-{dice.randrange(LISTS)}")
            case "query":
                await reading.query(category=dice.choice((None, "list", "order")))
            case _:
                await reading.load(f"aggregate-{dice.randrange(AGGREGATES)}", 1)


async def long_reads(recorder: Recorder) -> None:
    dice = recorder.dice
    read_only = dice.random() < 0.6
    isolation = _isolation(recorder)
    # Some stay open while the history window, and with it garbage collection, moves past them.
    pause_s = dice.choice((0.2, 1.0))
    async with recorder.transaction(
        "long reads", isolation=isolation, read_only=read_only
    ) as transaction:
        for _ in range(dice.randint(2, 5)):
            await transaction.scan(("bank",))
            await transaction.get(("list", dice.randrange(LISTS)))
            await transaction.load(f"aggregate-{dice.randrange(AGGREGATES)}", 1)
            await transaction.query(category="kept")
            await trio.sleep(dice.expovariate(1 / pause_s))
        if not read_only and dice.random() < 0.5:
            transaction.put(("long", dice.randrange(3)), element(recorder))


async def batches(recorder: Recorder) -> None:
    dice = recorder.dice
    key = ("batch", dice.randrange(2))
    known: object = None
    async with recorder.reading("batches") as reading:
        known = await reading.get(key)
    new = element(recorder)

    def fill(batch: headwater.Batch) -> list[Operation]:
        operations: list[Operation] = []
        if dice.random() < 0.6:
            # The condition corresponds to a read with the expected result.
            if known is None:
                batch.require_absent(key)
            else:
                batch.require(key, known)
            operations.append(Get(key, known))
        batch.get(("bank", 0))
        operations.append(Get(("bank", 0), ...))
        if dice.random() < 0.8:
            batch.put(key, new)
            operations.append(Put(key, new))
            batch.append("note", headwater.Event("Sent", new))
            operations.append(Append("note", [(new, "Sent")]))
        return operations

    await recorder.execute("batches", fill)


async def outcomes(recorder: Recorder) -> None:
    dice = recorder.dice
    fenced = [
        answer.transaction
        for answer in recorder.history.status_answers
        if answer.state == "aborted"
    ]
    if fenced and dice.random() < 0.5:
        # An aborted transaction must stay aborted.
        await recorder.ask_status(dice.choice(fenced), resolve=False)
        return
    attempts = [each for each in recorder.history.attempts[-20:] if each.identity is not None]
    if attempts:
        identity = dice.choice(attempts).identity
        assert identity is not None
        await recorder.ask_status(identity, resolve=dice.random() < 0.3)


async def aging(recorder: Recorder) -> None:
    dice = recorder.dice
    stream = stream_kept_for(dice.choice(AGES_MS))
    if dice.random() < 0.4:
        async with recorder.transaction("aging", isolation="snapshot") as transaction:
            transaction.append_aging(stream, element(recorder))
        return
    if dice.random() < 0.3:
        commit = max(0, recorder.history.acknowledged - dice.choice((0, 1, 3, 10)))
        async with recorder.reading("past", at_commit=commit) as reading:
            await reading.read(stream)
            await reading.query(category=CATEGORY)
        return
    async with recorder.transaction("aging", read_only=dice.random() < 0.5) as transaction:
        for _ in range(dice.randint(1, 4)):
            await transaction.read(stream, after=dice.choice((0, 0, 2)))
            await transaction.query(category=CATEGORY)
            await trio.sleep(dice.expovariate(1 / 0.5))


async def hollow(recorder: Recorder) -> None:
    dice = recorder.dice
    number = dice.randrange(3)
    stream = f"kept-{number}"
    async with recorder.transaction("hollow", isolation=_isolation(recorder)) as transaction:
        match dice.choice(("range", "key", "truncate", "delete", "erase")):
            case "range":
                transaction.delete_range(("hollow", number))
            case "key":
                transaction.delete(("hollow", number))
            case "truncate":
                transaction.truncate(stream, 1)
            case "delete":
                # This stream does not exist.
                transaction.delete_stream(f"hollow-{number}")
            case _:
                version, _ = await transaction.load_kept(stream, 1)
                if version:
                    # Sometimes for the second time.
                    transaction.erase(stream, [1])
    identity = transaction.attempt.identity
    if identity is not None and transaction.attempt.writes:
        await recorder.ask_status(identity, resolve=False)


async def kept(recorder: Recorder) -> None:
    dice = recorder.dice
    stream = f"kept-{dice.randrange(KEPT)}"
    match dice.choice(("decide",) * 4 + ("rule",) + ("less",) * 3 + ("look", "look", "past")):
        case "decide":
            schema = dice.choice((1, 1, 1, 2))

            async def decide(transaction: Recording) -> None:
                version, elements = await transaction.load_kept(stream, schema)
                new = [(event_element(recorder), "Kept") for _ in range(dice.choice((1, 1, 2, 4)))]
                transaction.append(stream, new, expect=version)
                if elements and dice.random() < 0.5:
                    transaction.save_kept(stream, version, schema, elements)
                if dice.random() < 0.2:
                    await transaction.load_kept(stream, 3 - schema)

            await recorder.run("kept", decide, isolation=_isolation(recorder))
        case "rule":
            async with recorder.transaction("kept") as transaction:
                await transaction.query(tags=("green",))
                new = [(event_element(recorder) + "#green", "Kept")]
                transaction.append(stream, new, unless=("green",))
        case "less":
            await _take_away(recorder, stream)
        case "past":
            commit = max(0, recorder.history.acknowledged - dice.choice((0, 1, 3, 30)))
            async with recorder.reading("past", at_commit=commit) as reading:
                await _look(reading, stream, dice.choice((0, 0, 2)), outside=True)
                await reading.query(category=dice.choice((None, "kept")))
        case _:
            if dice.random() < 0.5:
                async with recorder.reading("kept") as reading:
                    await _look(reading, stream, dice.choice((0, 0, 2)), outside=True)
                return
            async with recorder.transaction("kept", read_only=dice.random() < 0.7) as transaction:
                for _ in range(dice.randint(1, 3)):
                    await _look(transaction, stream, dice.choice((0, 0, 2)))
                    await transaction.query(category="kept", kind=dice.choice((None, "Kept")))
                    await trio.sleep(dice.expovariate(1 / 0.2))


async def _look(recording: Recording, stream: str, after: int, *, outside: bool = False) -> None:
    """Read a stream in every way; outside a transaction, in one random way."""
    if not outside:
        await recording.read(stream, after=after)
        await recording.load_kept(stream, 1)
        return
    if recording.attempt.number % 3 == 0:
        await recording.read(stream, after=after)
    elif recording.attempt.number % 3 == 1:
        await recording.load_kept(stream, 1)
    else:
        await recording.listing("kept")


async def _take_away(recorder: Recorder, stream: str) -> None:
    """Truncate, cap or delete a stream, or erase events; often several of these in one commit."""
    dice = recorder.dice
    if dice.random() < 0.3:
        # Without a read, in one round trip.
        async with recorder.transaction("kept") as transaction:
            if dice.random() < 0.5:
                transaction.delete_stream(stream)
            else:
                transaction.retain(stream, dice.choice((None, 1, 2, 5)))
        return
    async with recorder.transaction("kept") as transaction:
        version, _ = await transaction.load_kept(stream, 1)
        for _ in range(dice.choice((1, 1, 2))):
            match dice.choice(
                ("truncate", "truncate", "erase", "erase", "newest", "delete", "count")
            ):
                case "truncate":
                    transaction.truncate(stream, dice.randint(max(1, version - 4), version + 1))
                case "erase" if version:
                    transaction.erase(stream, [dice.randint(1, version)])
                case "newest":
                    await transaction.erase_newest(stream)
                case "delete" if dice.random() < 0.3:
                    transaction.delete_stream(stream)
                case _:
                    transaction.retain(stream, dice.choice((None, 1, 3)))
            if dice.random() < 0.3:
                transaction.append(stream, [(event_element(recorder), "Kept")])
        if dice.random() < 0.3:
            await _look(transaction, stream, 0)
            await transaction.query(category="kept")


ACTIONS: Final[Mapping[str, Callable[[Recorder], Awaitable[None]]]] = {
    "bank": bank,
    "lists": lists,
    "counters": counters,
    "skew": skew,
    "predicates": predicates,
    "streams": streams,
    "rules": rules,
    "aggregates": aggregates,
    "past": past,
    "long reads": long_reads,
    "batches": batches,
    "outcomes": outcomes,
    "aging": aging,
    "hollow": hollow,
    "kept": kept,
    "leases": leases,
}
"""The workloads by the name that the plan uses."""
