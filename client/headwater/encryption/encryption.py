"""The keys of subjects, kept as keys of the database: made, used and destroyed in transactions.

    ("$subject", "ann")  ->  [1, key id, master id, the key, or the wrapped key]

    encryption = Encryption(master={"2026": secret})
    async with db.transaction() as tx:
        sealing = await encryption.sealing(tx, "ann")
        tx.append("account-ann", sealing.event("account-ann", Event("Opened", …), {"name": "ann"}))
    opened = await encryption.open(db, event)
    async with db.transaction() as tx:
        await encryption.shred(tx, "ann")

A key is wrapped with a master key, which is kept elsewhere. So the files, the archive and the
backups of the database hold no key that opens anything by itself.
"""

import secrets
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final
from uuid import UUID

from headwater.database import Database
from headwater.encryption.sealing import (
    KEY_SIZE,
    NONCE_SIZE,
    Place,
    SubjectKey,
    cipher,
    new_key,
    open_all,
    seal_fields,
    subjects_in,
)
from headwater.errors import InvalidArgument, Undecodable
from headwater.identifiers import new_transaction_id
from headwater.reads.key_reads import KeyReads
from headwater.records import Event, RecordedEvent
from headwater.transactions.transaction import Transaction
from headwater_protocol.keys import Key, encode_key
from headwater_protocol.messages import encode

PREFIX: Final = "$subject"
"""The first member of the keys under which the keys of subjects are stored."""

REWRAPPED_AT_ONCE: Final = 500
"""Keys that one transaction wraps again."""

_FORM: Final = 1


class Sealing:
    """Seals values of some subjects, in one transaction. Made by `Encryption.sealing`."""

    def __init__(self, keys: Mapping[str, SubjectKey]) -> None:
        self._keys = keys

    def event(self, stream: str, event: Event, fields: Mapping[str, str]) -> Event:
        """The event with sealed fields, to be appended to *stream* and to no other.

        It gets an id if it has none, because its ciphertext is bound to it.

        Args:
            stream: to which it will be appended.
            event: its data is a map, or any value if all of it is sealed.
            fields: the subject of each field. "name" is a member of the data, "seats.0.name" one
                further inside, "" all of the data. They may be of several subjects.

        Raises:
            InvalidArgument: there is no such field, or the subject is not one of this sealing.
        """
        identity = event.id if event.id is not None else UUID(bytes=new_transaction_id())
        place = _place_of_event(stream, identity, event.type)
        return replace(event, id=identity, data=seal_fields(event.data, fields, self._keys, place))

    def value(self, key: Key, value: Any, fields: Mapping[str, str]) -> Any:
        """A value with sealed fields, to be put under *key* and no other."""
        return seal_fields(value, fields, self._keys, _place_of_key(key))


class Encryption:
    """Encryption with a key for each subject.

    Args:
        master: the master keys by name, each of 32 random bytes. New keys of subjects are wrapped
            with the last one; the others are there for older ones. Without any, the keys of
            subjects are stored unencrypted: then anyone with the files or a backup has them.

    Raises:
        InvalidArgument: a master key has another size.
    """

    def __init__(self, master: Mapping[str, bytes] | None = None) -> None:
        self._masters = dict(master or {})
        for name, secret in self._masters.items():
            if type(secret) is not bytes or len(secret) != KEY_SIZE:
                raise InvalidArgument(f"master {name!r}: expected {KEY_SIZE} bytes")
        self._newest = next(reversed(self._masters), "")

    async def sealing(self, transaction: Transaction, *subjects: str) -> Sealing:
        """What seals values of these subjects, in a transaction. It makes missing keys.

        So the key and what it seals are committed together. If two transactions make the key of one
        subject at the same time, one of them conflicts.

        Raises:
            InvalidArgument: no subject is given, or a key is wrapped with an unknown master key.
        """
        if not subjects:
            raise InvalidArgument("sealing: give at least one subject")
        keys = await self._keys(transaction, subjects)
        for subject in subjects:
            if subject not in keys:
                keys[subject] = new_key()
                transaction.put((PREFIX, subject), self._wrapped(subject, keys[subject]))
        return Sealing(keys)

    async def open(self, place: KeyReads, event: RecordedEvent) -> RecordedEvent:
        """The event with its sealed fields opened, or Shredded(subject) in their place.

        Args:
            place: from which the keys are read: a database, a transaction, or the past.
            event: as it was read.

        Raises:
            Undecodable: a field was changed, or was sealed for another place.
        """
        (opened,) = await self.open_events(place, [event])
        return opened

    async def open_events(
        self, place: KeyReads, events: Iterable[RecordedEvent]
    ) -> list[RecordedEvent]:
        """Several events, as `open`. The keys of all subjects are read together."""
        kept = list(events)
        subjects = set[str]().union(*(subjects_in(event.data) for event in kept))
        keys = await self._keys(place, sorted(subjects))
        opened = []
        for event in kept:
            where = _place_of_event(event.stream, event.id, event.type)
            opened.append(event.with_parts(open_all(event.data, keys, where), event.metadata))
        return opened

    async def open_value(self, place: KeyReads, key: Key, value: Any) -> Any:
        """The value of a key with its sealed fields opened, as `open`."""
        keys = await self._keys(place, sorted(subjects_in(value)))
        return open_all(value, keys, _place_of_key(key))

    async def shred(self, transaction: Transaction, *subjects: str) -> int:
        """Destroy the keys of subjects. From the commit on, nothing that they sealed can be opened.

        Returns:
            How many of them had a key.
        """
        had = await self._stored(transaction, subjects)
        for subject in had:
            transaction.delete((PREFIX, subject))
        return len(had)

    async def rewrap(self, database: Database) -> int:
        """Wrap all keys with the newest master key. Nothing that is sealed changes.

        Afterwards destroy the older master keys: then the keys of subjects that were shredded
        before cannot be had from older backups either. It may be repeated after an error.

        Returns:
            How many keys were wrapped again.

        Raises:
            InvalidArgument: there is no master key, or a key is wrapped with an unknown one.
        """
        if not self._newest:
            raise InvalidArgument("rewrap: there is no master key")
        count = 0
        pending: list[str] = []
        async for key, stored in database.scan((PREFIX,)):
            if stored[2] != self._newest:
                pending.append(str(key[1]))
            if len(pending) == REWRAPPED_AT_ONCE:
                count += await database.run(self._rewrap, pending)
                pending = []
        if pending:
            count += await database.run(self._rewrap, pending)
        return count

    async def _rewrap(self, transaction: Transaction, subjects: Sequence[str]) -> int:
        # Read again: a subject may have been shredded meanwhile.
        keys = await self._keys(transaction, subjects)
        for subject, key in keys.items():
            transaction.put((PREFIX, subject), self._wrapped(subject, key))
        return len(keys)

    # The stored keys.

    async def _stored(self, place: KeyReads, subjects: Sequence[str]) -> dict[str, Any]:
        for subject in subjects:
            if type(subject) is not str or not subject:
                raise InvalidArgument(f"subject: expected a str, got {subject!r:.60}")
        names = list(dict.fromkeys(subjects))
        values = await place.get_many([(PREFIX, subject) for subject in names])
        return {name: value for name, value in zip(names, values, strict=True) if value is not None}

    async def _keys(self, place: KeyReads, subjects: Sequence[str]) -> dict[str, SubjectKey]:
        stored = await self._stored(place, subjects)
        return {subject: self._unwrapped(subject, each) for subject, each in stored.items()}

    def _wrapped(self, subject: str, key: SubjectKey) -> list[Any]:
        name = self._newest
        if not name:
            return [_FORM, key.id, "", key.secret]
        nonce = secrets.token_bytes(NONCE_SIZE)
        bound = _bound_key(subject, key.id, name)
        wrapped = cipher(self._masters[name]).encrypt(nonce, key.secret, bound)
        return [_FORM, key.id, name, nonce + wrapped]

    def _unwrapped(self, subject: str, stored: Any) -> SubjectKey:
        match stored:
            case [1, bytes(key_id), str(name), bytes(data)]:
                pass
            case _:
                raise Undecodable(f"the key of subject {subject!r} is damaged")
        if not name:
            return SubjectKey(key_id, data)
        if name not in self._masters:
            raise InvalidArgument(
                f"the key of subject {subject!r} is wrapped with the master key {name!r}, which "
                "was not given"
            )
        from cryptography.exceptions import InvalidTag

        bound = _bound_key(subject, key_id, name)
        try:
            secret = cipher(self._masters[name]).decrypt(
                data[:NONCE_SIZE], data[NONCE_SIZE:], bound
            )
        except (InvalidTag, ValueError) as error:
            raise Undecodable(
                f"the key of subject {subject!r} does not open with the master key {name!r}"
            ) from error
        return SubjectKey(key_id, secret)


def _place_of_event(stream: str, identity: UUID, event_type: str) -> Place:
    return ("event", stream, identity.bytes, event_type)


def _place_of_key(key: Key) -> Place:
    return ("key", encode_key(key))


def _bound_key(subject: str, key_id: bytes, master: str) -> bytes:
    return bytes(encode([_FORM, "subject", subject, key_id, master]))
