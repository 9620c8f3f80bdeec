"""What a model can ask. Each tool reads; none writes.

Values are JSON with tags for the types that JSON lacks, as in a dump. So they can be shown whatever
the codec of the application is. An answer is bounded, since it goes into the context of a model: it
says `more` if there is more, and from where to continue.
"""

import json
from collections.abc import AsyncIterator, Callable
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any, Final
from uuid import UUID

from headwater.cli.dumps.tagged_json import from_json, key_to_json, value_to_json
from headwater.database import Database
from headwater.errors import InvalidArgument, PermissionDenied
from headwater.reads.history_pages import KeyVersion
from headwater.reads.key_ranges import key_range
from headwater.reads.past import Past
from headwater.records import RecordedEvent
from headwater_protocol.keys import KeyTuple, encode_key, key_after

ITEMS_DEFAULT: Final = 20
"""Items in one answer, if the model does not say: enough to see what there is."""

ITEMS_MAX: Final = 200
"""Items in one answer: what a model can still read through."""

ANSWER_SIZE_MAX: Final = 60_000
"""Characters of the items in one answer: a part of what a model can hold at once. A single larger
value is cut."""

Json = dict[str, Any]


class Tools:
    """The tools over a database.

    Args:
        data: the database, with RawCodec.
        decoded: the same database with its default codec, for projections.
    """

    def __init__(self, data: Database, decoded: Database) -> None:
        self._data = data
        self._decoded = decoded

    def _at(self, commit: int | None, time: str | None) -> Database | Past:
        if commit is None and time is None:
            return self._data
        if commit is not None and time is not None:
            raise InvalidArgument("give either commit or time")
        return self._data.at(commit=commit, time=None if time is None else _time(time))

    async def overview(self) -> Json:
        """What the database holds: newest commit, its categories of streams, beginnings of keys.

        Call this first. The time is that of the server. What the user may not list is left out,
        with the reason; `rights` then say what can be read.
        """
        newest = await self._data.ping()
        who = await self._data.connections.whoami()
        answer: Json = {
            "user": who.user,
            "commit": newest.commit,
            "time": newest.time.isoformat(),
        }
        if who.user is not None:
            rights = await self._data.rights.mine()
            answer["rights"] = [str(grant) for grant in rights.grants]
            answer["roles"] = list(rights.roles)
        answer["categories"] = await _if_allowed(self._data.categories(), asdict)
        answer["keys_begin_with"] = await _if_allowed(
            self._data.prefixes(()), lambda key: key_to_json(encode_key(key))
        )
        return answer

    async def list_streams(
        self,
        prefix: str = "",
        limit: int = ITEMS_DEFAULT,
        commit: int | None = None,
        time: str | None = None,
    ) -> Json:
        """The streams whose names begin with a prefix, by name, with their versions."""
        place = self._at(commit, time)
        return await _items(place.streams(prefix=prefix), _plain, _limit(limit))

    async def read_stream(
        self,
        stream: str,
        after: int = 0,
        limit: int = ITEMS_DEFAULT,
        newest_first: bool = False,
        commit: int | None = None,
        time: str | None = None,
    ) -> Json:
        """The events of one stream, which are what happened to one entity, in order.

        `after` is a version of the stream: events behind it are read, or before it with
        newest_first.
        """
        place = self._at(commit, time)
        events = place.read(stream, after=after, reverse=newest_first, limit=_limit(limit) + 1)
        return await _items(events, _event, _limit(limit))

    async def read_events(
        self,
        category: str | None = None,
        types: list[str] | None = None,
        tags: list[str] | None = None,
        since: str | None = None,
        after: int = 0,
        limit: int = ITEMS_DEFAULT,
        newest_first: bool = False,
    ) -> Json:
        """The events of all streams, in the order in which they happened.

        Filter by the category of the streams (what stands before the first "-"), by types of
        events, by tags (all must be there), and by time (ISO 8601). `after` is a position.
        """
        events = self._data.read_all(
            category=category,
            types=types or None,
            tags=tags or None,
            since=None if since is None else _time(since),
            after=after,
            reverse=newest_first,
            limit=_limit(limit) + 1,
        )
        return await _items(events, _event, _limit(limit))

    async def find_event(self, id: str) -> Json:  # noqa: A002 - the name that a model expects
        """An event by its id."""
        try:
            wanted = UUID(id)
        except ValueError:
            raise InvalidArgument(f"id: {id!r:.60} is no UUID") from None
        event = await self._data.find_event(wanted)
        return {"event": None if event is None else _event(event)}

    async def get_key(
        self, key: list[Any], commit: int | None = None, time: str | None = None
    ) -> Json:
        """The value of a key, now or as it was at a commit or a time (ISO 8601).

        A key is a list of its members, such as ["balance", "ann"].
        """
        value = await self._at(commit, time).get(_key(key))
        if value is None:
            return {"exists": False}
        return {"exists": True, "value": _cut(value_to_json(value))}

    async def list_keys(
        self,
        prefix: list[Any],
        limit: int = ITEMS_DEFAULT,
        after: list[Any] | None = None,
        commit: int | None = None,
        time: str | None = None,
    ) -> Json:
        """The keys that begin with these members, with their values, in order.

        An empty prefix is for all keys. `after` is the last key of the answer before.
        """
        first, last = key_range(_key(prefix) if prefix else (), None, None)
        if after is not None:
            first = max(first, key_after(encode_key(_key(after))))
        place = self._at(commit, time)
        # Encoded, since the end of a prefix is no key.
        _, flat, more = await place._fetch("scan", first, last, _limit(limit), False)  # noqa: SLF001

        async def pairs() -> AsyncIterator[tuple[bytes, bytes]]:
            for pair in zip(flat[::2], flat[1::2], strict=True):
                yield pair

        answer = await _items(pairs(), _pair, _limit(limit))
        return answer | {"more": answer["more"] or more}

    async def key_history(self, key: list[Any], limit: int = ITEMS_DEFAULT) -> Json:
        """Who changed a key, when, from what to what; the newest change first."""
        versions = self._data.history(_key(key), limit=_limit(limit) + 1)
        return await _items(versions, _version, _limit(limit))

    async def stream_history(self, stream: str, limit: int = ITEMS_DEFAULT) -> Json:
        """The events of a stream with the users who appended them, the newest first."""
        entries = self._data.stream_history(stream, limit=_limit(limit) + 1)
        return await _items(
            entries, lambda entry: {"user": entry.user} | _event(entry.event), _limit(limit)
        )

    async def list_projections(self) -> Json:
        """The projections (read models), how far each has come, and its parked streams."""
        found = []
        for name in (await self._decoded.projections.names())[:ITEMS_MAX]:
            try:
                status = asdict(await self._decoded.projections.status(name))
            except InvalidArgument:
                # It is being removed.
                continue
            if status["parked"]:
                parked = await self._decoded.projections.parked(name)
                status["parked_streams"] = [_plain(each) for each in parked[:ITEMS_DEFAULT]]
            found.append(status)
        return {"items": found, "more": False}

    async def list_groups(self) -> Json:
        """The consumer groups, how far each has come, and how many events it has parked."""
        found = []
        for summary in (await self._data.groups.list())[:ITEMS_MAX]:
            info = await self._data.groups.info(summary.name)
            found.append(_plain(info) | {"lag": info.lag})
        return {"items": found, "more": False}


def _limit(limit: int) -> int:
    if not 1 <= limit <= ITEMS_MAX:
        raise InvalidArgument(f"limit: {limit}; allowed are 1 to {ITEMS_MAX}")
    return limit


def _time(text: str) -> datetime:
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        raise InvalidArgument(f"time: {text!r:.60} is not ISO 8601") from None
    return time.replace(tzinfo=UTC) if time.tzinfo is None else time


def _key(members: list[Any]) -> KeyTuple:
    try:
        key: KeyTuple = tuple(from_json(member) for member in members)
        encode_key(key)
    except (ValueError, TypeError, KeyError) as error:
        raise InvalidArgument(f"key: {members!r:.80} is no key: {error}") from error
    return key


async def _items(found: AsyncIterator[Any], shown: Callable[[Any], Any], limit: int) -> Json:
    """As many items as an answer may have."""
    items: list[Any] = []
    size = 0
    async for each in found:
        item = shown(each)
        length = len(json.dumps(item))
        if len(items) == limit or (items and size + length > ANSWER_SIZE_MAX):
            return {"items": items, "more": True}
        items.append(item)
        size += length
    return {"items": items, "more": False}


async def _if_allowed(found: AsyncIterator[Any], shown: Callable[[Any], Any]) -> Json:
    try:
        return await _items(found, shown, ITEMS_MAX)
    except PermissionDenied as error:
        return {"refused": error.message}


def _event(event: RecordedEvent) -> Json:
    shown: Json = {
        "position": event.position,
        "stream": event.stream,
        "version": event.version,
        "commit": event.commit,
        "time": event.time.isoformat(),
        "id": str(event.id),
        "type": event.type,
    }
    if event.erased:
        return shown | {"erased": True}
    shown["data"] = _cut(value_to_json(event.data))
    if event.metadata is not None:
        shown["metadata"] = _cut(value_to_json(event.metadata))
    return shown | ({"tags": list(event.tags)} if event.tags else {})


def _pair(pair: tuple[bytes, bytes]) -> Json:
    return {"key": key_to_json(pair[0]), "value": _cut(value_to_json(pair[1]))}


def _version(version: KeyVersion) -> Json:
    return {
        "commit": version.commit,
        "time": None if version.time is None else version.time.isoformat(),
        "user": version.user,
        "old": None if version.old is None else _cut(value_to_json(version.old)),
        "new": None if version.new is None else _cut(value_to_json(version.new)),
        "exists": version.exists,
        "expired": version.expired,
    }


def _cut(value: Any) -> Any:
    """A value, or the beginning of its text if it is larger than an answer."""
    text = json.dumps(value, ensure_ascii=False)
    if len(text) <= ANSWER_SIZE_MAX:
        return value
    return {"$cut": text[:1000], "characters": len(text)}


def _plain(item: Any) -> Json:
    """A dataclass as JSON."""
    shown: Json = json.loads(json.dumps(asdict(item), default=str))
    return shown
