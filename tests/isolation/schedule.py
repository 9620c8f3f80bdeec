"""Schedules: a small language for interleaved transactions, which run over the wire.

    begin T1 T2            open them, so that their read views are equal
    T1 put k1 11           T1 get k1          T1 delete k1         T1 add k1 1
    T1 delete_range        the range of all keys
    T1 scan                T1 scan =30        T1 scan %3           all keys, or those that match
    T1 bump 10             scans, and puts each value plus 10
    T1 delete =20          scans, and deletes the keys with the value 20
    T1 append s [expect]   T1 read s          T1 query category
    T1 append s +t1 +t2 -t3                   an event with tags t1, t2, unless one with t3 exists
    T1 query +t1 +t2                          the events with both tags
    T1 commit              T1 rollback
    final                  the data that a new transaction sees

The text after `->` is the expected result of a step. A script is the golden file of an anomaly: the
schedule with comments, followed by the results at each isolation level.
"""

import secrets
from typing import Any

import msgpack

from headwater_protocol.errors import Conflict
from tests.wire import Wire

_ABSENT = "nothing"
_ALL = (b"", None)


class Player:
    """Plays one schedule at one isolation level, on its own keys and streams."""

    def __init__(self, address: str, isolation: str) -> None:
        self._address = address
        self._isolation = isolation
        # Tests share a server, so the schedule's names get a unique prefix.
        self._prefix = secrets.token_hex(6)
        self._wires: dict[str, Wire] = {}
        self._ids: dict[str, bytes] = {}
        self._names: dict[bytes, str] = {}

    def play(self, lines: list[str]) -> list[str]:
        """Play the steps and return them, each followed by `-> result` if it has one."""
        try:
            self._set_up()
            return [self._line(line) for line in lines]
        finally:
            for wire in self._wires.values():
                wire.close()

    def _set_up(self) -> None:
        wire = self._wires["set-up"] = Wire(self._address)
        writes = [["put", self._key("k1"), _pack(10)], ["put", self._key("k2"), _pack(20)]]
        wire.ask("execute", secrets.token_bytes(16), [], [], writes)

    def _line(self, line: str) -> str:
        words = line.split()
        match words:
            case ["begin", *names]:
                for name in names:
                    self._begin(name)
                outcome: str | None = None
            case ["final"]:
                self._begin("final")
                outcome = self._scan("final", None)
            case [name, *step]:
                outcome = self._step(name, step)
            case _:
                raise AssertionError(f"an empty step: {line!r}")
        return line if outcome is None else f"{line} -> {outcome}"

    def _begin(self, name: str) -> None:
        identity = secrets.token_bytes(16)
        self._wires[name] = Wire(self._address)
        self._ids[name] = identity
        self._names[identity] = name
        self._wires[name].ask("begin", identity, self._isolation)

    def _step(self, name: str, step: list[str]) -> str | None:
        match step:
            case ["put", key, value]:
                return self._write(name, ["put", self._key(key), _pack(int(value))])
            case ["delete", where] if where[0] in "=%":
                return self._delete_where(name, where)
            case ["delete", key]:
                return self._write(name, ["delete", self._key(key)])
            case ["add", key, number]:
                return self._write(name, ["add", self._key(key), int(number)])
            case ["delete_range"]:
                return self._write(name, ["delete_range", *self._range()])
            case ["append", stream, *words] if any(word[0] in "+-" for word in words):
                return self._append_tagged(name, stream, words)
            case ["append", stream, *expect]:
                event = [None, "Happened", b"", b""]
                version = int(expect[0]) if expect else -1
                return self._write(name, ["append", self._stream(stream), version, [event]])
            case ["get", key]:
                return self._get(name, key)
            case ["scan", *where]:
                return self._scan(name, where[0] if where else None)
            case ["bump", number]:
                return self._bump(name, int(number))
            case ["read", stream]:
                page = self._ask(name, "read_stream", self._stream(stream))
                return f"version {page[1]}"
            case ["query", *words] if words[0][0] == "+":
                wanted = {"query": [{"tags": self._tags(words, "+")}]}
                page = self._ask(name, "read_all", 0, wanted)
                return f"{len(page[2])} events"
            case ["query", category]:
                page = self._ask(name, "read_all", 0, {"category": self._stream(category)})
                return f"{len(page[2])} events"
            case ["commit"]:
                return self._commit(name)
            case ["rollback"]:
                self._ask(name, "rollback")
                return None
            case _:
                raise AssertionError(f"no such step: {step}")

    def _append_tagged(self, name: str, stream: str, words: list[str]) -> str | None:
        event = [None, "Happened", b"", b"", self._tags(words, "+")]
        write = ["append", self._stream(stream), -1, [event]]
        if unwanted := self._tags(words, "-"):
            write.append({"query": [{"tags": unwanted}]})
        return self._write(name, write)

    def _tags(self, words: list[str], sign: str) -> list[str]:
        return [self._prefix + word[1:] for word in words if word[0] == sign]

    def _ask(self, name: str, operation: str, *arguments: Any) -> Any:
        return self._wires[name].ask(operation, self._ids[name], *arguments)

    def _write(self, name: str, write: list[Any]) -> str | None:
        self._ask(name, "write", [write])
        return None

    def _get(self, name: str, key: str) -> str:
        value = self._ask(name, "get", self._key(key))
        return _ABSENT if value is None else str(msgpack.unpackb(value))

    def _items(self, name: str, where: str | None) -> list[tuple[str, int]]:
        _, flat, _ = self._ask(name, "scan", *self._range())
        pairs = iter(flat)
        found = []
        for key, value in zip(pairs, pairs, strict=True):
            number = msgpack.unpackb(value)
            fits = (
                where is None
                or (where[0] == "=" and number == int(where[1:]))
                or (where[0] == "%" and number % int(where[1:]) == 0)
            )
            if fits:
                found.append((key.decode().rpartition("/")[2], number))
        return found

    def _scan(self, name: str, where: str | None) -> str:
        items = self._items(name, where)
        return ", ".join(f"{key} = {value}" for key, value in items) or _ABSENT

    def _bump(self, name: str, number: int) -> str:
        items = self._items(name, None)
        for key, value in items:
            self._write(name, ["put", self._key(key), _pack(value + number)])
        return ", ".join(f"{key} = {value + number}" for key, value in items)

    def _delete_where(self, name: str, where: str) -> str:
        items = self._items(name, where)
        for key, _ in items:
            self._write(name, ["delete", self._key(key)])
        return ", ".join(key for key, _ in items) or _ABSENT

    def _commit(self, name: str) -> str:
        try:
            self._ask(name, "commit")
        except Conflict as error:
            return "; ".join(sorted(self._told(conflict) for conflict in error.conflicts))
        return "committed"

    def _told(self, conflict: dict[str, Any]) -> str:
        if "start" in conflict:
            subject = f"the range, at {conflict['key'].decode().rpartition('/')[2]}"
        elif "key" in conflict:
            subject = conflict["key"].decode().rpartition("/")[2]
        else:
            subject = conflict.get("stream", "the query").replace(self._prefix, "")
        winner = self._names.get(conflict["transaction"], "somebody else")
        return f"{conflict['kind']} conflict on {subject} with {winner}"

    def _key(self, key: str) -> bytes:
        return f"{self._prefix}/{key}".encode()

    def _range(self) -> tuple[bytes, bytes]:
        return f"{self._prefix}/".encode(), f"{self._prefix}0".encode()

    def _stream(self, stream: str) -> str:
        # The category must be unique too, so it includes the prefix.
        category, _, rest = stream.partition("-")
        return f"{category}{self._prefix}" + (f"-{rest}" if rest else "")


def _pack(value: int) -> bytes:
    packed: bytes = msgpack.packb(value)
    return packed
