"""One stream of JetStream, request by request: make, look at, append, read, trim.

The sequence of a message is the index of its entry. An append names the entry before it, so the
stream takes it in its place or not at all:

    publish   Nats-Expected-Last-Sequence: index - 1, Nats-Msg-Id: the entry's id
    answer    {"seq": index}                        stored; also with "duplicate": true
              {"seq": 0, "error": {10071, …}}       another message is there, or one before is not
              {"seq": 0, "error": {10164, …}}       an earlier one is being decided; ask again
              none                                  unknown: it may be stored at any later time
"""

import base64
import json
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any, Final

from headwater_protocol.errors import InvalidArgument
from headwater_server.storage.errors import Unavailable
from headwater_server.storage.jetstream.service import STATUS, Pending, Reply, StreamService
from headwater_server.storage.jetstream.settings import StreamPlan, check_config, subject_of

ANSWER_S: Final = 0.8
"""Seconds for an answer. A server that hangs is left after that."""

MAKE_S: Final = 5.0
"""Seconds for making a stream or trimming it."""

BATCH_MESSAGES: Final = 1024
"""Messages that one read asks for."""

_WRONG_SEQUENCE: Final = frozenset({10070, 10071})
_NO_STREAM: Final = 10059
_NAME_IN_USE: Final = 10058
_NOT_FOUND: Final = 10037


class Outcome(Enum):
    """What an answer to an append says."""

    STORED = "stored"
    REFUSED = "refused"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class StreamState:
    """What the stream's leader says of it.

    Attributes:
        first, last: the sequences of its ends; first is last + 1 if it is empty.
        messages: how many it has; fewer than the ends say if some were lost.
        size: bytes.
        database_id: of the log.
        leader, replicas: names of the servers; replicas that are not current have their lag.
    """

    first: int
    last: int
    messages: int
    size: int
    database_id: bytes
    leader: str | None
    replicas: tuple[tuple[str, bool, int], ...]

    @property
    def missing(self) -> int:
        """Messages between the ends that are not there."""
        return max(0, self.last - self.first + 1 - self.messages)


class Stream:
    """A stream, through a client of NATS."""

    def __init__(self, service: StreamService, name: str, *, replicas_min: int) -> None:
        self.service = service
        self.name = name
        self._replicas_min = replicas_min
        self._subject = subject_of(name)

    def make(self, plan: StreamPlan) -> StreamState:
        """The state of the stream, which is made if there is none.

        Raises:
            InvalidArgument: there is one, with other settings.
            Unavailable: no answer.
        """
        state = self.find()
        if state is not None:
            return state
        answer = self._ask("STREAM.CREATE", plan.config(), MAKE_S)
        # Another node may have made it meanwhile, for a database of its own.
        if "error" in answer and answer["error"].get("err_code") != _NAME_IN_USE:
            raise InvalidArgument(
                f"the stream {self.name!r} cannot be made: {answer['error'].get('description')}"
            )
        state = self.find()
        if state is None:
            raise Unavailable(f"the stream {self.name!r} was made and is not there yet")
        return state

    def find(self) -> StreamState | None:
        """The state of the stream, as its leader knows it; None: there is none.

        Raises:
            InvalidArgument: its settings are not safe.
            Unavailable: no answer: it has no leader, or cannot be reached.
        """
        answer = self._ask("STREAM.INFO", None, ANSWER_S)
        if "error" in answer:
            if answer["error"].get("err_code") == _NO_STREAM:
                return None
            raise Unavailable(f"the stream {self.name!r}: {answer['error'].get('description')}")
        config, state, cluster = answer["config"], answer["state"], answer.get("cluster", {})
        database_id = check_config(config, self.name, replicas_min=self._replicas_min)
        first = state["first_seq"]
        if not state["messages"]:
            first = state["last_seq"] + 1
        return StreamState(
            first,
            state["last_seq"],
            state["messages"],
            state["bytes"],
            database_id,
            cluster.get("leader"),
            tuple(
                (each["name"], bool(each.get("current")), each.get("lag", 0))
                for each in cluster.get("replicas") or ()
            ),
        )

    def append(self, index: int, entry_id: str, packed: bytes) -> Pending:
        """Send an entry; `outcome` reads the answer."""
        headers = {"Nats-Expected-Last-Sequence": str(index - 1), "Nats-Msg-Id": entry_id}
        return self.service.post(self._subject, packed, headers, ANSWER_S)

    @staticmethod
    def outcome(reply: Reply | None, index: int) -> Outcome:
        """What the answer to an append says."""
        answer = _decoded(reply)
        error = answer.get("error")
        # An answer with an error has a sequence too: 0.
        if error is None:
            return Outcome.STORED if answer.get("seq") == index else Outcome.UNKNOWN
        refused = isinstance(error, dict) and error.get("err_code") in _WRONG_SEQUENCE
        return Outcome.REFUSED if refused else Outcome.UNKNOWN

    def at(self, index: int) -> bytes | None:
        """The message of an index as the stream's leader has it; None: it has none.

        Raises:
            Unavailable: no answer.
        """
        answer = self._ask("STREAM.MSG.GET", {"seq": index}, ANSWER_S)
        error = answer.get("error")
        if error is None:
            return base64.b64decode(answer["message"].get("data") or "")
        if error.get("err_code") == _NOT_FOUND:
            return None
        raise Unavailable(f"entry {index}: {error.get('description')}")

    def batch(self, index: int, size_max: int) -> list[tuple[int, bytes]]:
        """Messages from an index on with their sequences, of some server, which may be behind.

        Raises:
            Unavailable: no answer.
        """
        asked = json.dumps({"seq": index, "batch": BATCH_MESSAGES, "max_bytes": max(size_max, 1)})
        replies = self.service.gather(f"$JS.API.DIRECT.GET.{self.name}", asked.encode(), ANSWER_S)
        if replies is None:
            self.service.reset()
            raise Unavailable(f"the entries from {index} on: no answer")
        return [
            (int(reply.headers["Nats-Sequence"]), reply.data)
            for reply in replies
            if STATUS not in reply.headers
        ]

    def trim(self, below: int) -> None:
        """Remove the messages below a sequence.

        Raises:
            Unavailable: no answer, or it was refused.
        """
        answer = self._ask("STREAM.PURGE", {"seq": below}, MAKE_S)
        if not answer.get("success"):
            raise Unavailable(f"the stream was not trimmed: {answer.get('error')}")

    def _ask(self, what: str, fields: dict[str, Any] | None, seconds: float) -> dict[str, Any]:
        payload = b"" if fields is None else json.dumps(fields).encode()
        subject = f"$JS.API.{what}.{self.name}"
        reply = self.service.post(subject, payload, None, seconds).wait()
        if reply is None:
            self.service.reset()
            raise Unavailable(f"the stream {self.name!r} does not answer ({what})")
        answer = _decoded(reply)
        if not answer:
            raise Unavailable(f"the stream {self.name!r} gave no answer to {what}")
        return answer


def _decoded(reply: Reply | None) -> dict[str, Any]:
    """The JSON of a reply; empty if there is none."""
    if reply is None or STATUS in reply.headers:
        return {}
    try:
        decoded = json.loads(reply.data)
    except ValueError:
        return {}
    return dict(decoded) if isinstance(decoded, Mapping) else {}
