"""A reader of data directories that was written from docs/format.md alone.

It uses no code of Headwater. A test compares its results with those of a client, so it fails if
the page is incomplete or differs from the code. The reader expects a sound directory; other tests
cover damage.
"""

import hashlib
import json
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import msgpack
import rocksdict


class Segment:
    """One file of a segmented log, with its header checked."""

    def __init__(self, path: Path, kind: bytes, database_id: bytes) -> None:
        self.data = path.read_bytes()
        header = self.data[:4096]
        magic, found, form, size, first, preallocated = struct.unpack_from(">8s8sIIQQ", header)
        assert (magic, found.rstrip(b"\0"), form, size) == (b"HEADWATR", kind, 1, 4096)
        assert preallocated in (0, len(self.data))
        assert header[40:56] == database_id
        self.epoch, self.previous = struct.unpack_from(">Q16s", header, 56)
        assert struct.unpack_from(">I", header, 4092)[0] == zlib.crc32(header[:4092])
        assert path.stem == f"{first:020d}"
        self.first: int = first

    def entries(self) -> Iterator[tuple[int, bytes, bytes, int]]:
        """Index, payload, whole entry and offset of each entry, up to the first unsound one."""
        offset, index = 4096, self.first
        while offset + 16 <= len(self.data):
            length, crc, found = struct.unpack_from(">IIQ", self.data, offset)
            end = offset + -(-(16 + length) // 8) * 8
            entry = self.data[offset:end]
            if found != index or zlib.crc32(entry[8:], length) != crc:
                return
            yield index, entry[16 : 16 + length], entry, offset
            offset, index = end, index + 1


class Version(NamedTuple):
    """A version of a key: the commit that wrote it, and the value, or None for a deletion."""

    commit: int
    value: bytes | None


def version_of(entry: bytes) -> Version:
    """The version in an entry of LATEST or HISTORY."""
    commit, flags = struct.unpack_from(">QB", entry)
    assert flags in (0, 1)
    return Version(commit, entry[9:] if flags else None)


class Directory:
    """The contents of a data directory.

    Attributes:
        format: the number of the format.
        meta: the entries of INDEX "m", by name.
        records: the records of the write-ahead log: the kind ("commit", "abort" or "tick"), and the
            other members except the version.
        commits: number -> (transaction, time, user, first position, count).
        events: position -> the members of the stored event; None if it was removed.
        newest: the newest values of all keys, which begin with the byte of their space.
        versions: the version of each stream.
        transactions: the commit of each known transaction id; 0 if it was aborted.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._read_format()
        self._read_state()
        self.records = list(self._records())
        self.commits = dict(self._commits())
        self.events = dict(self._events())
        self._replay()

    def _read_format(self) -> None:
        text = (self._path / "FORMAT").read_text()
        fields: dict[str, Any] = json.loads(text)
        crc = fields.pop("crc32")
        assert text.endswith("}\n")
        assert crc == zlib.crc32(json.dumps(fields, sort_keys=True).encode())
        assert fields.get("features", []) == []
        self.format: int = fields["format"]
        self.database_id = bytes.fromhex(fields["database_id"].replace("-", ""))

    # The state store.

    def _read_state(self) -> None:
        options = rocksdict.Options(raw_mode=True)
        store = rocksdict.Rdict(
            str(self._path / "state"), options, access_type=rocksdict.AccessType.read_only()
        )
        self.meta: dict[str, bytes] = {}
        self.versions: dict[str, int] = {}
        self.transactions: dict[bytes, int] = {}
        self._latest: dict[bytes, Version] = {}
        self._history: dict[bytes, list[tuple[int, Version]]] = {}
        entries: Any = store.items()
        for key, value in entries:
            family, rest = key[0], key[1:]
            if family == 1:
                self._latest[rest] = version_of(value)
            elif family == 2:
                (size,) = struct.unpack_from(">I", rest)
                (until,) = struct.unpack_from(">Q", rest, 4 + size)
                older = self._history.setdefault(rest[4 : 4 + size], [])
                older.append((until, version_of(value)))
            elif family == 4 and rest[:1] == b"m":
                self.meta[rest[1:].decode()] = value
            elif family == 4 and rest[:1] == b"s":
                identity, count, last = struct.unpack_from(">QQQ", value)
                assert identity <= last
                self.versions[rest[1:].decode()] = count
            elif family == 5 and len(rest) == 16:
                self.transactions[rest] = struct.unpack_from(">Q", value)[0]
            elif family == 5:
                for transaction, commit in struct.iter_unpack(">16sQ", value):
                    assert transaction[:5] == rest[:5]
                    self.transactions[transaction] = commit
        store.close()
        applied = struct.unpack(">QQQQ", self.meta["applied"])
        self.applied_commit, self.applied_position, self.applied_time, _ = applied
        self.newest = self.at(self.applied_commit)

    def at(self, commit: int) -> dict[bytes, bytes]:
        """All keys with a value, as of a commit that a checkpoint has applied."""
        assert commit <= self.applied_commit
        found = {}
        for key, latest in self._latest.items():
            version: Version | None = latest
            if latest.commit > commit:
                above = [each for each in self._history.get(key, []) if each[0] > commit]
                version = min(above)[1] if above else None
            if version is not None and version.commit <= commit and version.value is not None:
                found[key] = version.value
        return found

    # The write-ahead log.

    def _records(self) -> Iterator[tuple[str, list[Any]]]:
        part = b""
        for body, flags in self._bodies():
            if flags & 2:
                part += body[4:]
            if flags & 1:
                part = part if flags & 2 else body[4:]
                continue
            if flags & 2:
                yield self._record(part)
                part = b""
                continue
            at = 0
            while at < len(body):
                (size,) = struct.unpack_from(">I", body, at)
                yield self._record(body[at + 4 : at + 4 + size])
                at += 4 + size

    def _bodies(self) -> Iterator[tuple[bytes, int]]:
        expected: bytes | None = None
        newest = 0
        for path in sorted((self._path / "wal").glob("*.wal")):
            segment = Segment(path, b"wal", self.database_id)
            epoch = segment.epoch
            assert expected in (None, segment.previous)
            assert newest in (0, segment.first - 1)
            expected = segment.previous
            for index, payload, entry, _ in segment.entries():
                found, _, previous, durable, flags = struct.unpack_from(">Q16s16sQQ", payload)
                assert previous == expected
                assert found >= epoch
                assert durable < index
                expected = hashlib.sha256(entry).digest()[:16]
                epoch, newest = found, index
                yield payload[56:], flags

    @staticmethod
    def _record(data: bytes) -> tuple[str, list[Any]]:
        members: list[Any] = msgpack.unpackb(data, use_list=True)
        if len(members) == 8:
            return "commit", members
        if len(members) == 4:
            assert members[0] == 0
            return "abort", members[1:]
        version, kind, *rest, extensions = members
        assert (version, extensions) == (1, None)
        assert len(members) == {1: 11, 2: 6, 3: 6}[kind]
        return {1: "commit", 2: "abort", 3: "tick"}[kind], rest

    # The commit log and the event log.

    def _commits(self) -> Iterator[tuple[int, tuple[bytes, int, int, int, int]]]:
        for path in sorted((self._path / "commits").glob("*.commits")):
            data = path.read_bytes()
            magic, form, capacity, first, identity = struct.unpack_from(">8sIIQ16s", data)
            assert (magic, form, identity) == (b"HWCOMMIT", 1, self.database_id)
            assert struct.unpack_from(">I", data, 60)[0] == zlib.crc32(data[:60])
            last = min(self.applied_commit, first + capacity - 1)
            for commit in range(first, last + 1):
                record = data[64 * (commit - first + 1) : 64 * (commit - first + 2)]
                transaction, found, time, user, position, count = struct.unpack_from(
                    ">16sQQQQI", record
                )
                assert found == commit
                assert struct.unpack_from(">I", record, 60)[0] == zlib.crc32(record[:60])
                yield commit, (transaction, time, user, position, count)

    def _events(self) -> Iterator[tuple[int, list[Any] | None]]:
        for path in sorted((self._path / "events").glob("*.events")):
            segment = Segment(path, b"events", self.database_id)
            offsets = path.with_suffix(".idx").read_bytes()
            for position, payload, _, offset in segment.entries():
                if position > self.applied_position:
                    break
                (stored,) = struct.unpack_from(">I", offsets, 4 * (position - segment.first))
                assert stored == offset
                yield position, msgpack.unpackb(payload, use_list=True) if payload else None

    # The commits that only the write-ahead log has.

    def _replay(self) -> None:
        commit, position, time = self.applied_commit, self.applied_position, self.applied_time
        for kind, members in self.records:
            if kind == "abort":
                self.transactions[members[0]] = 0
            if kind != "commit" or members[0] <= commit:
                continue
            assert members[0] == commit + 1
            commit, transaction, now, user, writes, first, events, event_ids = members
            assert first == position + 1
            assert now >= time
            time = now
            self.commits[commit] = (transaction, time, user, first, len(events))
            for place, stored in enumerate(events):
                position += 1
                event = msgpack.unpackb(stored, use_list=True)
                assert event[0] == position
                assert (event[3], event[4]) == (commit, time)
                self.events[position] = event
                if place in event_ids[::2]:
                    assert event_ids[2 * event_ids[::2].index(place) + 1] == event[5]
                self.versions[event[1]] = event[2]
            for key, value in zip(writes[::2], writes[1::2], strict=True):
                self.newest.pop(key, None)
                if value is not None:
                    self.newest[key] = value
            self.transactions[transaction] = commit
        self.last_commit = commit
