"""JetStream in memory, with faults, for tests and simulation: one server that has one stream.

`MemoryJetStream` is the stream, and outlives its clients. `connect` returns a MemoryService, which
answers as nats-server does: the checks of an append come in the same order, and the answers have
the same fields. No call blocks: what is lost is no answer at once.
"""

import base64
import json
import random as random_module
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from headwater_server.storage.jetstream.service import STATUS, Reply


class Fate(Enum):
    """What becomes of a request."""

    ANSWERED = "answered"
    LOST = "lost"
    ANSWER_LOST = "its answer is lost"
    LATE = "it arrives later, without an answer"
    TWICE = "it arrives twice"
    NO_LEADER = "nobody has the subject"


Deliver = Callable[[str], Fate]
"""Decides about a request to a subject."""


def deliver(_subject: str) -> Fate:
    """Nothing is lost."""
    return Fate.ANSWERED


@dataclass(slots=True)
class _Message:
    data: bytes


@dataclass(frozen=True, slots=True)
class Request:
    """A request on its way."""

    subject: str
    payload: bytes
    headers: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class _Answer:
    reply: Reply | None

    def wait(self) -> Reply | None:
        return self.reply


@dataclass(slots=True)
class MemoryJetStream:
    """A stream that outlives its clients.

    Attributes:
        deliver: decides what becomes of each request; change it at any time.
        behind: direct reads see the messages up to so many before the newest.
        late: requests on their way.
        remembers: whether repeated message ids are detected; False: the window has passed.
    """

    deliver: Deliver = deliver
    behind: int = 0
    late: list[Request] = field(default_factory=list)
    remembers: bool = True
    config: dict[str, Any] | None = None
    messages: dict[int, _Message] = field(default_factory=dict)
    first: int = 1
    last: int = 0
    services: list["MemoryService"] = field(default_factory=list)
    # Those of lost messages, too: the stream remembers that it had them.
    _ids: dict[str, int] = field(default_factory=dict)

    def connect(self, deliver: Deliver | None = None) -> "MemoryService":
        """A client; *deliver* decides about its requests before the stream's own."""
        service = MemoryService(self, deliver)
        self.services.append(service)
        return service

    def land(self, random: random_module.Random | None = None) -> None:
        """Let requests arrive that are on their way: all, or some of them in a random order."""
        late, self.late = self.late, []
        if random is not None:
            random.shuffle(late)
            keep = random.randint(0, len(late))
            late, self.late = late[keep:], late[:keep]
        for request in late:
            self.answer(request)

    def lose(self, sequence: int) -> None:
        """Lose a message, of which nobody is told."""
        del self.messages[sequence]

    def flip(self, sequence: int, bit: int) -> None:
        """Flip a bit of a message."""
        changed = bytearray(self.messages[sequence].data)
        changed[bit // 8] ^= 1 << bit % 8
        self.messages[sequence].data = bytes(changed)

    def forget_tail(self, last: int) -> None:
        """Lose the newest messages, as a server does that believes an incomplete copy."""
        for sequence in range(last + 1, self.last + 1):
            self.messages.pop(sequence, None)
        self.last = last

    # Requests.

    def answer(self, request: Request) -> Reply:
        """Carry out a request."""
        subject, _, _ = request.subject.rpartition(".")
        if not request.subject.startswith("$JS.API."):
            return self._append(request)
        fields = json.loads(request.payload) if request.payload else {}
        match subject.removeprefix("$JS.API."):
            case "STREAM.INFO":
                return _json(self._info())
            case "STREAM.CREATE":
                return _json(self._create(fields))
            case "STREAM.MSG.GET":
                return _json(self._get(fields["seq"]))
            case "STREAM.PURGE":
                below = min(fields["seq"], self.last + 1)
                for sequence in [each for each in self.messages if each < below]:
                    del self.messages[sequence]
                self.first = max(self.first, below)
                return _json({"success": True})
        raise AssertionError(f"no such request: {request.subject}")

    def batch(self, payload: bytes) -> list[Reply]:
        """Answer a direct read of several messages."""
        asked = json.loads(payload)
        size, found = 0, list[Reply]()
        for sequence in sorted(each for each in self.messages if each >= asked["seq"]):
            if sequence > self.last - self.behind or len(found) == asked["batch"]:
                break
            if found and size >= asked["max_bytes"]:
                break
            message = self.messages[sequence]
            size += len(message.data)
            found.append(Reply({"Nats-Sequence": str(sequence)}, message.data))
        found.append(Reply({STATUS: "204" if found else "404"}, b""))
        return found

    def _append(self, request: Request) -> Reply:
        if self.config is None:
            return Reply({STATUS: "503"}, b"")
        message_id = request.headers["Nats-Msg-Id"]
        expected = int(request.headers["Nats-Expected-Last-Sequence"])
        stored = self._ids.get(message_id)
        if stored is not None and self.remembers:
            return _json({"stream": self.config["name"], "seq": stored, "duplicate": True})
        if expected != self.last:
            return _json(_error(10071, f"wrong last sequence: {self.last}"))
        self.last += 1
        self.messages[self.last] = _Message(request.payload)
        self._ids[message_id] = self.last
        return _json({"stream": self.config["name"], "seq": self.last})

    def _info(self) -> dict[str, Any]:
        if self.config is None:
            return _error(10059, "stream not found")
        first = min(self.messages, default=self.last + 1)
        return {
            "config": self.config,
            "state": {
                "messages": len(self.messages),
                "bytes": sum(len(message.data) for message in self.messages.values()),
                "first_seq": first,
                "last_seq": self.last,
            },
            "cluster": {"leader": "memory"},
        }

    def _create(self, fields: dict[str, Any]) -> dict[str, Any]:
        if self.config is not None and self.config != fields:
            return _error(10058, "stream name already in use with a different configuration")
        if self.config is None:
            self.config = fields
            self.first = fields["first_seq"]
            self.last = self.first - 1
        return self._info()

    def _get(self, sequence: int) -> dict[str, Any]:
        message = self.messages.get(sequence)
        if message is None:
            return _error(10037, "no message found")
        return {"message": {"seq": sequence, "data": base64.b64encode(message.data).decode()}}


class MemoryService:
    """A StreamService on a stream in memory.

    Attributes:
        deliver: decides what becomes of a request of this client before the stream does.
        closed: it was closed.
    """

    def __init__(self, stream: MemoryJetStream, deliver: Deliver | None) -> None:
        self._stream = stream
        self.deliver = deliver
        self.closed = False
        self.resets = 0
        self._heard: dict[str, list[bytes]] = {}

    def post(
        self, subject: str, payload: bytes, headers: Mapping[str, str] | None, _seconds: float
    ) -> _Answer:
        stream = self._stream
        request = Request(subject, payload, headers or {})
        match self._fate(subject):
            case Fate.LOST:
                return _Answer(None)
            case Fate.NO_LEADER:
                return _Answer(Reply({STATUS: "503"}, b""))
            case Fate.LATE:
                stream.late.append(request)
                return _Answer(None)
            case Fate.ANSWER_LOST:
                stream.answer(request)
                return _Answer(None)
            case Fate.TWICE:
                stream.answer(request)
        return _Answer(stream.answer(request))

    def _fate(self, subject: str) -> Fate:
        if self.closed:
            return Fate.LOST
        own = Fate.ANSWERED if self.deliver is None else self.deliver(subject)
        return own if own is not Fate.ANSWERED else self._stream.deliver(subject)

    def gather(self, subject: str, payload: bytes, _seconds: float) -> list[Reply] | None:
        if self._fate(subject) in (Fate.LOST, Fate.ANSWER_LOST, Fate.LATE):
            return None
        return self._stream.batch(payload)

    def reset(self) -> None:
        self.resets += 1

    def tell(self, subject: str, payload: bytes) -> None:
        if self._fate(subject) not in (Fate.ANSWERED, Fate.TWICE):
            return
        for service in self._stream.services:
            service.receive(subject, payload)

    def receive(self, subject: str, payload: bytes) -> None:
        """A message of some client."""
        if subject in self._heard and self._fate(subject) is not Fate.LOST:
            self._heard[subject].append(payload)

    def listen(self, subject: str) -> None:
        self._heard.setdefault(subject, [])

    def heard(self, subject: str, _seconds: float) -> list[bytes]:
        found, self._heard[subject] = self._heard[subject], []
        return found

    def close(self) -> None:
        self.closed = True
        if self in self._stream.services:
            self._stream.services.remove(self)


def _json(fields: dict[str, Any]) -> Reply:
    return Reply({}, json.dumps(fields).encode())


def _error(code: int, what: str) -> dict[str, Any]:
    return {"error": {"code": 400, "err_code": code, "description": what}, "seq": 0}
