"""Fills a database with orders of two persons, and erases one of them."""

import secrets
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import headwater
from headwater.cli.server_process import ServerProcess

ANN, BOB = "4711", "4712"
SECRET = b"555-0101"

# A program takes it from its key store.
ENCRYPTION = headwater.BlockingEncryption(master={"2026": secrets.token_bytes(32)})


def about(person: str, kind: str, data: dict[str, Any]) -> headwater.Event:
    """An event about one person."""
    return headwater.Event(kind, data, tags=[f"person:{person}"])


def fill(db: headwater.BlockingDatabase) -> None:
    for number, (person, name, street, item) in enumerate(
        [
            (ANN, "Ann", "1 Main Street", "tea"),
            (ANN, "Ann", "1 Main Street", "cups"),
            (BOB, "Bob", "2 Side Street", "tea"),
        ],
        1,
    ):
        data = {"to": f"{name}, {street}", "item": item}
        # What is counted must outlive the person, so it is an event of its own.
        sold = headwater.Event("Sold", {"item": item})
        db.append(f"order-{number}", [about(person, "Placed", data), sold])
    db.append("chat-1", about(ANN, "Said", {"text": f"my phone is {SECRET.decode()}"}))
    with db.transaction() as tx:
        # An event about two persons cannot be erased for one of them. So each part is sealed with a
        # key of its person.
        sealing = ENCRYPTION.sealing(tx, ANN, BOB)
        party = headwater.Event("Invited", {"host": "Ann", "guest": "Bob"})
        tx.append("party-1", sealing.event("party-1", party, {"host": ANN, "guest": BOB}))
    db.put(("person", ANN, "name"), "Ann")
    db.put(("person", ANN, "mail"), "ann@example.org")


def events_of(db: headwater.BlockingDatabase, person: str) -> list[headwater.RecordedEvent]:
    return list(db.read_all(tags=[f"person:{person}"]))


def invitation(db: headwater.BlockingDatabase) -> Any:
    (event,) = db.read("party-1")
    return ENCRYPTION.open(db, event).data


def erase(db: headwater.BlockingDatabase, person: str) -> tuple[int, int]:
    """Erase a person's events, keys and encryption key, and remember that, in one transaction."""

    def work(tx: headwater.BlockingTransaction) -> tuple[int, int]:
        events = list(tx.read_all(tags=[f"person:{person}"]))
        ENCRYPTION.shred(tx, person)
        keys = list(tx.scan(("person", person), values=False))
        tx.erase(positions=[event.position for event in events])
        tx.delete_range(("person", person))
        tx.append("erasures", headwater.Event("Erased", {"person": person, "events": len(events)}))
        return len(events), len(keys)

    return db.run(work)


def main() -> None:
    with tempfile.TemporaryDirectory() as directory, ServerProcess(Path(directory)) as server:
        with headwater.connect_blocking(server.url) as db:
            fill(db)
            events, keys = events_of(db, ANN), list(db.scan(("person", ANN)))
            print(f"ann asks: {len(events)} events and {len(keys)} keys")
            for event in events:
                print(" ", event.stream, event.type, event.data)
            for key, value in keys:
                print(" ", key[2], "=", value)

            print("  party-1 Invited", invitation(db))

            before = db.ping().commit
            print("ann is erased: {} events, {} keys".format(*erase(db, ANN)))
            for event in events_of(db, ANN):
                print(" ", event.stream, event.type, event.data)
            print("  party-1 Invited", invitation(db))
            (past,) = db.at(commit=before).read("order-1", limit=1)
            print("as of the commit before:", past.data)
            print("keys:", db.count(("person", ANN)))
            (bobs,) = events_of(db, BOB)
            print("bob has:", bobs.data)
            sold = Counter(event.data["item"] for event in db.read_all(types=["Sold"]))
            print("sold, from a read model that was built again:", dict(sorted(sold.items())))
            wait_until_gone(Path(directory))
            found = is_on_the_disk(Path(directory))
        print("the bytes are on the disk:", found)


def wait_until_gone(directory: Path) -> None:
    """The server rewrites its files within seconds."""
    until = time.monotonic() + 30
    while is_on_the_disk(directory) and time.monotonic() < until:
        time.sleep(0.1)


def is_on_the_disk(directory: Path) -> bool:
    return any(SECRET in file.read_bytes() for file in directory.rglob("*") if file.is_file())


if __name__ == "__main__":
    main()
