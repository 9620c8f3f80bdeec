"""Sealed data opens where it was sealed, with the key of its subject, and nowhere else."""

import copy
import random
import secrets
import uuid
from typing import Any

import pytest

import headwater
from headwater import BlockingEncryption, Encryption, Event, Shredded
from headwater.cli.server_process import ServerProcess
from headwater.encryption.sealing import (
    SEALED,
    new_key,
    open_all,
    seal_fields,
    subjects_in,
)
from tests.client.faces import FACES, run_on

PLACE = ("event", "s", bytes(16), "T")


def some_data(source: random.Random, depth: int = 3) -> Any:
    match source.randrange(5 if depth else 3):
        case 0:
            return source.choice([None, True, 7, 1.5, "text", b"bytes", ""])
        case 1:
            return [some_data(source, 0) for _ in range(source.randrange(3))]
        case 2:
            return {"leaf": source.randrange(99)}
        case 3:
            return {f"m{n}": some_data(source, depth - 1) for n in range(source.randrange(1, 4))}
        case _:
            return [some_data(source, depth - 1) for _ in range(source.randrange(1, 4))]


def fields_of(data: Any, path: str = "") -> list[str]:
    members = data.items() if isinstance(data, dict) else ()
    if isinstance(data, list):
        members = [(str(place), each) for place, each in enumerate(data)]  # type: ignore[assignment]
    found = [path]
    for name, member in members:
        found += fields_of(member, f"{path}.{name}" if path else str(name))
    return found


@pytest.mark.parametrize("seed", range(40))
def test_any_fields_of_any_data_come_back_and_shredded_ones_do_not(seed: int) -> None:
    source = random.Random(seed)
    data = some_data(source)
    keys = {name: new_key() for name in ("ann", "bob", "cid")}
    chosen: dict[str, str] = {}
    for field in source.sample(fields := fields_of(data), min(len(fields), 3)):
        inside = [each for each in chosen if not each or not field or nested(each, field)]
        if not inside:
            chosen[field] = source.choice(sorted(keys))
    before = copy.deepcopy(data)
    sealed = seal_fields(data, chosen, keys, PLACE)
    assert data == before
    assert subjects_in(sealed) == set(chosen.values())
    assert open_all(sealed, keys, PLACE) == data
    for gone in keys:
        left = {name: key for name, key in keys.items() if name != gone}
        opened = open_all(sealed, left, PLACE)
        replaced = {**left, gone: new_key()}
        assert open_all(sealed, replaced, PLACE) == opened
        assert (opened == data) == (gone not in chosen.values())
    if chosen:
        for other in (("event", "t", *PLACE[2:]), (*PLACE[:2], b"x" * 16, "T"), (*PLACE[:3], "U")):
            with pytest.raises(headwater.Undecodable, match="does not open"):
                open_all(sealed, keys, other)


def nested(one: str, other: str) -> bool:
    return f"{one}.".startswith(f"{other}.") or f"{other}.".startswith(f"{one}.")


def test_a_value_that_was_moved_changed_or_claimed_by_another_does_not_open() -> None:
    keys = {"ann": new_key(), "bob": new_key()}
    sealed = seal_fields({"a": 1, "b": [2, 2]}, {"a": "ann", "b.0": "ann"}, keys, PLACE)
    for moved in (
        {"a": sealed["b"][0], "b": [0]},
        {"b": [0, sealed["b"][0]]},
        {"b": {"0": sealed["b"][0]}},
        {"b": {0: sealed["a"]}},
        sealed["a"],
    ):
        with pytest.raises(headwater.Undecodable):
            open_all(moved, keys, PLACE)
    form, subject, key_id, data = sealed["a"][SEALED]
    for place in range(len(data)):
        changed = data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :]
        with pytest.raises(headwater.Undecodable):
            open_all({"a": {SEALED: [form, subject, key_id, changed]}}, keys, PLACE)
    for wrong in (data[:5], b""):
        with pytest.raises(headwater.Undecodable):
            open_all({"a": {SEALED: [form, subject, key_id, wrong]}}, keys, PLACE)
    with pytest.raises(headwater.Undecodable, match="known is 1"):
        open_all({"a": {SEALED: [2, subject, key_id, data]}}, keys, PLACE)
    with pytest.raises(headwater.Undecodable, match="damaged"):
        open_all({"a": {SEALED: "x"}}, keys, PLACE)
    claimed = {"a": {SEALED: [form, "bob", key_id, data]}}
    assert open_all(claimed, keys, PLACE) == {"a": Shredded("bob")}
    with pytest.raises(headwater.Undecodable):
        open_all(claimed, {"bob": keys["ann"]}, PLACE)


def test_wrong_fields_are_refused() -> None:
    keys = {"ann": new_key()}
    for fields, message in (
        ({"a": "bob"}, "was not asked for"),
        ({"x": "ann"}, "there is no 'x'"),
        ({"a.b": "ann"}, "there is no 'b'"),
        ({"l.7": "ann"}, "there is no '7'"),
        ({"a": "ann", "": "ann", "l": "ann"}, "there is no 'l'"),
    ):
        with pytest.raises(headwater.InvalidArgument, match=message):
            seal_fields({"a": 1, "l": [1]}, fields, keys, PLACE)
    once = seal_fields({"a": 1}, {"a": "ann"}, keys, PLACE)
    with pytest.raises(headwater.InvalidArgument, match="sealed already"):
        seal_fields(once, {"a": "ann"}, keys, PLACE)
    with pytest.raises(headwater.InvalidArgument, match="expected 32 bytes"):
        Encryption(master={"m": b"short"})


@pytest.mark.parametrize("face", FACES)
def test_data_and_its_key_are_committed_together_and_shredded(
    face: str, real_server: ServerProcess
) -> None:
    name = uuid.uuid4().hex
    ann, bob = f"{name}-ann", f"{name}-bob"
    old = secrets.token_bytes(32)

    async def scenario(db: headwater.Database) -> None:
        encryption = Encryption(master={"old": old})
        key = (name, "phone")
        with pytest.raises(RuntimeError):
            async with db.transaction() as tx:
                await encryption.sealing(tx, ann)
                raise RuntimeError
        assert await db.get(("$subject", ann)) is None
        async with db.transaction() as tx:
            sealing = await encryption.sealing(tx, ann, bob)
            event = Event("Met", {"a": "Ann", "both": [1, {"b": "Bob"}]})
            tx.append(name, sealing.event(name, event, {"a": ann, "both.1.b": bob}))
            tx.put(key, sealing.value(key, {"n": 5}, {"": ann}))
        async with db.transaction() as tx:
            sealing = await encryption.sealing(tx, ann)
            tx.append(name, sealing.event(name, Event("Whole", "Ann"), {"": ann}))
        before = (await db.ping()).commit
        events = [each async for each in db.read(name)]
        first, second = await encryption.open_events(db, events)
        assert first.data == {"a": "Ann", "both": [1, {"b": "Bob"}]}
        assert (second.data, second.id, second.version) == ("Ann", events[1].id, 2)
        assert b"Ann" not in repr(events[0].data).encode()
        assert await encryption.open_value(db, key, await db.get(key)) == {"n": 5}
        with pytest.raises(headwater.InvalidArgument, match="which was not given"):
            await Encryption().open(db, events[0])
        with pytest.raises(headwater.Undecodable, match="does not open with the master"):
            await Encryption({"old": secrets.token_bytes(32)}).open(db, events[0])
        async with db.transaction() as tx:
            assert await encryption.shred(tx, ann, f"{name}-nobody") == 1
            opened = await encryption.open(tx, events[0])
            assert opened.data["a"] == Shredded(ann)
        opened = await encryption.open(db, events[0])
        assert opened.data == {"a": Shredded(ann), "both": [1, {"b": "Bob"}]}
        assert not opened.data["a"]
        assert (await encryption.open(db, events[1])).data == Shredded(ann)
        assert (await encryption.open(db.at(commit=before), events[1])).data == "Ann"
        # A new key of the subject opens nothing of before.
        async with db.transaction() as tx:
            await encryption.sealing(tx, ann)
        assert (await encryption.open(db, events[1])).data == Shredded(ann)
        # After a rotation, the old master key opens nothing any more.
        newer = Encryption(master={"old": old, "new": secrets.token_bytes(32)})
        assert await newer.rewrap(db) >= 2
        assert await newer.rewrap(db) == 0
        assert (await newer.open(db, events[0])).data["both"] == [1, {"b": "Bob"}]
        with pytest.raises(headwater.InvalidArgument, match="which was not given"):
            await encryption.open(db, events[0])
        async with db.transaction() as tx:
            await newer.shred(tx, ann, bob)

    run_on(face, real_server.url, scenario)


def test_the_blocking_face_does_the_same(real_server: ServerProcess) -> None:
    name = uuid.uuid4().hex
    encryption = BlockingEncryption()
    with headwater.connect_blocking(real_server.url) as db:
        with db.transaction() as tx:
            sealing = encryption.sealing(tx, name)
            tx.append(name, sealing.event(name, Event("A", {"n": 1}), {"n": name}))
            tx.put((name,), sealing.value((name,), 2, {"": name}))
        (event,) = db.read(name)
        assert encryption.open(db, event).data == {"n": 1}
        assert encryption.open_value(db, name, db.get((name,))) == 2
        with db.transaction() as tx:
            assert encryption.shred(tx, name) == 1
        assert encryption.open_events(db, [event])[0].data == {"n": Shredded(name)}
