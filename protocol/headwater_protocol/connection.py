"""The two ends of a connection, without I/O: bytes in, messages out.

The owner of a socket passes received bytes to `receive` and sends the bytes that the other methods
return. This module never waits, reads no clock and makes no callbacks, so an event loop, a task, a
test or a simulation can run the same code. As in h11, both ends follow one table
(headwater_protocol.states).

There are three kinds of errors:
    a wrong request       an unknown operation, an argument out of bounds: `Refused`. The request
                          fails and the connection continues.
    a violation           bytes that are not msgpack, a missing hello, a request id in use:
                          `Violation`. The server sends the error, and the connection ends.
    our own mistake       an answer without a request: an assertion.
"""

from collections.abc import Sequence
from typing import Any, Final, NamedTuple, TypeAlias

from headwater_protocol.errors import (
    AuthenticationFailed,
    HeadwaterError,
    InvalidArgument,
    ProtocolError,
    TooLarge,
    UnknownOperation,
    shown,
)
from headwater_protocol.fast_validators import Arguments
from headwater_protocol.frames import FrameSplitter, encode_frame, join_frame
from headwater_protocol.limits import (
    BODY_SIZE_MAX,
    DEPTH_MAX,
    ERROR_MESSAGE_MAX,
    HELLO_BODY_SIZE_MAX,
    REQUEST_ID_MAX,
    REQUEST_ITEMS_MAX,
    REQUEST_UNSCANNED_SIZE_MAX,
    RESPONSE_ITEMS_MAX,
    RESPONSE_UNSCANNED_SIZE_MAX,
)
from headwater_protocol.messages import (
    PLAIN_PUT,
    decode,
    depth,
    encode,
    plain_put,
    request_id_of,
)
from headwater_protocol.operations import (
    ERROR,
    IN_TRANSACTION,
    OK,
    OPERATIONS,
    PUSH,
    TRANSACTION_ID,
)
from headwater_protocol.states import (
    ACCEPTED,
    REQUESTED,
    Role,
    State,
    Verdict,
    after_answer,
    verdict,
)


class Request:
    """A valid request. *arguments* include the defaults of missing ones."""

    # Not a NamedTuple: compiled, a class of this form is made in a fifth of the time.
    __slots__ = ("arguments", "name", "request_id")
    __match_args__ = ("request_id", "name", "arguments")

    def __init__(self, request_id: int, name: str, arguments: list[Any]) -> None:
        self.request_id = request_id
        self.name = name
        self.arguments = arguments

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Request):
            return NotImplemented
        mine = self.request_id, self.name, self.arguments
        return mine == (other.request_id, other.name, other.arguments)

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"Request({self.request_id}, {self.name!r}, {self.arguments!r})"


class Refused(NamedTuple):
    """A wrong request. Answer it with its error; the connection continues.

    *transaction* is the id in its first argument, if that argument is valid. Roll back this
    transaction, because its later requests may depend on the refused one.
    """

    request_id: int
    name: str
    transaction: bytes | None
    error: HeadwaterError


class Violation(NamedTuple):
    """Bytes that violate the protocol. It is the last item, and the state is CLOSED.

    *request_id* is 0 if it could not be read. A server sends the error, then closes.
    """

    request_id: int
    error: ProtocolError


class Answer(NamedTuple):
    """The answer to a request."""

    request_id: int
    payload: Any


class Failure(NamedTuple):
    """An error in answer to a request.

    With the id 0 it concerns the whole connection, which the server closes.
    """

    request_id: int
    error: HeadwaterError


class Push(NamedTuple):
    """A push of a subscription, with the request id of its subscribe."""

    request_id: int
    payload: Any


Received: TypeAlias = Request | Refused | Violation
Responded: TypeAlias = Answer | Failure | Push | Violation

_new: Final = tuple.__new__
_NOTHING: Final[list[Any]] = []
"""The arguments that a plain put leaves empty. Nobody changes the arguments of a request."""

_OPENING: Final = frozenset({"subscribe", "subscribe_keys", "group_join"})
_ENDING: Final = frozenset({"unsubscribe", "group_leave"})
_SPECIAL: Final = frozenset({"hello", "authenticate"}) | _OPENING | _ENDING
_SUBSCRIPTION: Final = "subscription"

_CHECKS: Final[dict[State, dict[str, Arguments]]] = {
    state: {name: OPERATIONS[name].arguments.fast for name in names}
    for state, names in ACCEPTED.items()
}


class _Connection:
    """The common part of both ends.

    Attributes:
        state: the state of the connection.
        closed: whether the state is CLOSED.
        in_flight: unanswered requests and open subscriptions by request id. The value is the name
            of the operation, or "subscription".
    """

    __slots__ = ("_checks", "_ending", "_splitter", "closed", "in_flight", "state")

    role: Role

    def __init__(self) -> None:
        self._splitter = FrameSplitter(HELLO_BODY_SIZE_MAX)
        self.in_flight: dict[int, str] = {}
        # requests to end a subscription or a membership in flight, with those that they end.
        self._ending: dict[int, int] = {}
        self._enter(State.HELLO)

    def _enter(self, state: State) -> None:
        self.state = state
        self.closed = state is State.CLOSED
        self._checks = _CHECKS[state]
        if state is State.READY:
            self._splitter.body_size_max = BODY_SIZE_MAX

    def close(self) -> None:
        """Ignore all further bytes. `in_flight` stays, to show the requests that get no answer."""
        self._enter(State.CLOSED)
        self._splitter.discard()

    @property
    def buffered_size(self) -> int:
        """Buffered bytes of an incomplete frame."""
        return self._splitter.buffered_size

    def _split(self, data: bytes) -> list[bytes]:
        try:
            return self._splitter.feed(data)
        except ProtocolError:
            # The splitter keeps the error. It is reported after the items before it.
            return []

    def _violation(self, request_id: int, error: ProtocolError) -> Violation:
        self._enter(State.CLOSED)
        return Violation(request_id, error)

    def _note_request(self, request_id: int, name: str, arguments: Sequence[Any]) -> None:
        """Note the effect of a request on the state or on subscriptions."""
        if name in REQUESTED:
            self._enter(REQUESTED[name])
        elif name in _ENDING:
            self._ending[request_id] = arguments[0]

    def _note_answer(self, request_id: int, name: str, status: int, payload: Any) -> None:
        """Note the effect of an answer on the state or on subscriptions."""
        if name in REQUESTED:
            # After a violation the answer may still be sent, but the state stays CLOSED.
            if not self.closed:
                self._enter(after_answer(self.state, status, payload))
        elif name in _OPENING:
            if status == OK:
                self.in_flight[request_id] = _SUBSCRIPTION
        elif name in _ENDING:
            subscription = self._ending.pop(request_id, 0)
            if status == OK and self.in_flight.get(subscription) == _SUBSCRIPTION:
                del self.in_flight[subscription]


class ServerConnection(_Connection):
    """The server's end."""

    __slots__ = ()

    role = Role.SERVER

    def receive(self, data: bytes) -> list[Received]:
        """Add received bytes; return the items that they complete, in order.

        Answer each Request and each Refused once. After a Violation, which is the last item, send
        its error and close. Further bytes are ignored.
        """
        items: list[Received] = []
        if self.closed:
            return items
        try:
            bodies = self._splitter.feed(data)
        except ProtocolError:
            # The splitter keeps the error. It is reported after the items before it.
            bodies = []
        in_flight = self.in_flight
        puts_allowed = "execute" in self._checks
        for body in bodies:
            if body[0] == PLAIN_PUT and puts_allowed:
                request_id, transaction, key, value = plain_put(body)
                if request_id and request_id not in in_flight:
                    in_flight[request_id] = "execute"
                    arguments: list[Any] = [transaction, _NOTHING, _NOTHING, [["put", key, value]]]
                    items.append(Request(request_id, "execute", arguments))
                    continue
            try:
                message = decode(body, REQUEST_UNSCANNED_SIZE_MAX, REQUEST_ITEMS_MAX)
                if (
                    type(message) is not list
                    or len(message) < 2
                    or type(number := message[0]) is not int
                    or not 0 < number <= REQUEST_ID_MAX
                    or type(name := message[1]) is not str
                ):
                    raise ProtocolError(_REQUEST_FORM)
                request_id = number  # typed, so it may take an int alone when compiled
                if request_id in in_flight:
                    raise ProtocolError(
                        f"request id {request_id} is in use by {in_flight[request_id]}"
                    )
                check = self._checks.get(name)
                if check is None:
                    items.append(self._out_of_place(request_id, name, message))
                    continue
                del message[:2]
                try:
                    completed = check.completed(message)
                    if completed is None:
                        completed = OPERATIONS[name].arguments.complete(message, name)
                except HeadwaterError as error:
                    items.append(self._refused(request_id, name, message, error))
                    continue
                in_flight[request_id] = name
                if name in _SPECIAL:
                    self._note_request(request_id, name, completed)
            except ProtocolError as error:
                request_id = request_id_of(body)
                # With the id of another open request, the error would be taken for its answer.
                items.append(self._violation(0 if request_id in in_flight else request_id, error))
                return items
            items.append(Request(request_id, name, completed))
        if self._splitter.violation is not None:
            items.append(self._violation(0, self._splitter.violation))
        return items

    def _out_of_place(self, request_id: int, name: str, message: list[Any]) -> Refused:
        """Refuse an operation that the state does not accept.

        Raises:
            ProtocolError: in this state the operation is a violation.
        """
        _bound_depth(message)
        match verdict(self.state, name):
            case Verdict.REFUSED if self.state is State.AUTHENTICATION:
                error: HeadwaterError = AuthenticationFailed(
                    f"{shown(name)}: the server has users; authenticate first"
                )
            case Verdict.REFUSED:
                error = UnknownOperation(f"unknown operation {shown(name)}")
            case _:
                raise ProtocolError(f"{shown(name)} is not allowed in state {self.state.name}")
        self.in_flight[request_id] = name
        # An unknown operation may belong to a transaction, which then must not commit without it.
        # So a first argument that looks like a transaction id counts as one.
        return Refused(request_id, name, _transaction_of(message[2:]), error)

    def _refused(
        self, request_id: int, name: str, arguments: list[Any], error: HeadwaterError
    ) -> Refused:
        # Valid arguments have a bounded depth, so only refused ones are checked.
        _bound_depth(arguments)
        self.in_flight[request_id] = name
        if name in REQUESTED:
            self._enter(REQUESTED[name])
        transaction = _transaction_of(arguments) if name in IN_TRANSACTION else None
        return Refused(request_id, name, transaction, error)

    def answer(self, request_id: int, payload: Any) -> bytes:
        """The frame of the answer to a request.

        Raises:
            TooLarge: the frame is above BODY_SIZE_MAX. The request still needs an answer.
        """
        frame = encode_frame(encode((request_id, OK, payload)))
        name = self.in_flight.pop(request_id)
        if name in _SPECIAL:
            try:
                self._note_answer(request_id, name, OK, payload)
            except ProtocolError as error:
                raise AssertionError(f"wrong answer to {name}: {error}") from error
        return frame

    def answer_frame(self, request_id: int, frame: bytes) -> bytes:
        """Answer a request with a whole frame (headwater_protocol.answers)."""
        del self.in_flight[request_id]
        return frame

    def answer_encoded(self, request_id: int, *parts: bytes) -> bytes:
        """Like `answer`, with the encoded payload in one or several parts."""
        frame = join_frame(b"\x93", encode(request_id), b"\0", *parts)
        name = self.in_flight.pop(request_id)
        assert name not in _SPECIAL, f"{name} changes the state; use answer()"
        return frame

    def error(self, request_id: int, error: HeadwaterError) -> bytes:
        """The frame of an error, in answer to a request or after a Violation."""
        code, message, retryable, details = error.as_payload()
        payload = (code, message[:ERROR_MESSAGE_MAX], retryable, details)
        try:
            frame = encode_frame(encode((request_id, ERROR, payload)))
        except TooLarge:
            # For example all conflicts of a very large transaction. Send the error without details.
            frame = encode_frame(encode((request_id, ERROR, (*payload[:3], {}))))
        name = self.in_flight.pop(request_id, None)
        assert name is not None or self.state is State.CLOSED, f"request {request_id} is not open"
        if name in _SPECIAL:
            self._note_answer(request_id, name, ERROR, None)
        return frame

    def push(self, request_id: int, payload: Any) -> bytes:
        """The frame of a push. ["ended", …] is the last push of a subscription."""
        assert self.in_flight.get(request_id) == _SUBSCRIPTION, f"no subscription {request_id}"
        if payload[0] == "ended":
            del self.in_flight[request_id]
        return encode_frame(encode((request_id, PUSH, payload)))


_REQUEST_FORM: Final = (
    "a request is an array [request_id, operation, arguments…]:"
    f" an int of 1 to {REQUEST_ID_MAX}, a str and the operation's arguments"
)


def _transaction_of(arguments: list[Any]) -> bytes | None:
    """The first argument, if it has the form of a transaction id."""
    match arguments:
        case [bytes(transaction), *_] if len(transaction) == TRANSACTION_ID.size_max:
            return transaction
        case _:
            return None


def _bound_depth(value: Any, outer: int = 0) -> None:
    deep = depth(value)
    if deep + outer > DEPTH_MAX:
        raise ProtocolError(f"{deep + outer} nested levels; allowed are {DEPTH_MAX}")


class ClientConnection(_Connection):
    """The client's end."""

    __slots__ = ("_last_id",)

    role = Role.CLIENT

    def __init__(self) -> None:
        super().__init__()
        self._last_id = 0

    def request(self, name: str, *arguments: Any) -> tuple[int, bytes]:
        """Make a request: its id and its frame. Trailing defaults may be left out.

        Raises:
            UnknownOperation: no operation has this name.
            InvalidArgument, TooLarge: an argument is wrong. The state is unchanged.
        """
        check = self._checks.get(name)
        if check is None:
            if name not in OPERATIONS:
                raise UnknownOperation(f"unknown operation {shown(name)}")
            raise AssertionError(f"{name} in state {self.state.name}")
        values = list(arguments)
        if not check.accepts(values):
            OPERATIONS[name].arguments.complete(values, name)
        in_flight = self.in_flight
        request_id = self._last_id % REQUEST_ID_MAX + 1
        while request_id in in_flight:
            request_id = request_id % REQUEST_ID_MAX + 1
        try:
            frame = encode_frame(encode([request_id, name, *values]))
        except UnicodeEncodeError as error:
            raise InvalidArgument(f"{name}: a str with a lone surrogate: {error}") from error
        self._last_id = request_id
        in_flight[request_id] = name
        if name in _SPECIAL:
            self._note_request(request_id, name, values)
        return request_id, frame

    def receive(self, data: bytes) -> list[Responded]:
        """Add received bytes; return the items that they complete, in order.

        After a Violation, which is the last item, close. Further bytes are ignored.
        """
        items: list[Responded] = []
        if self.closed:
            return items
        for body in self._split(data):
            try:
                items.append(
                    self._response(decode(body, RESPONSE_UNSCANNED_SIZE_MAX, RESPONSE_ITEMS_MAX))
                )
            except ProtocolError as error:
                items.append(self._violation(request_id_of(body), error))
            if self.closed:
                return items
        if self._splitter.violation is not None:
            items.append(self._violation(0, self._splitter.violation))
        return items

    def _response(self, message: Any) -> Responded:
        if type(message) is not list or len(message) != 3:
            raise ProtocolError("a response is an array [request_id, status, payload]")
        request_id, status, payload = message
        # bool is a subclass of int, so True would pass for 1.
        if type(request_id) is not int or type(status) is not int:
            raise ProtocolError("the request id and status of a response must be ints")
        name = self.in_flight.get(request_id)
        if status == ERROR:
            return self._failure(request_id, name, payload)
        if name is None:
            raise ProtocolError(f"a response to request {request_id}, which is not open")
        if status == OK and name != _SUBSCRIPTION:
            del self.in_flight[request_id]
            if name in _SPECIAL:
                self._note_answer(request_id, name, OK, payload)
            elif name == "stats":
                _bound_depth(payload, 1)  # the only answer without a fixed form
            return _new(Answer, (request_id, payload))
        if status == PUSH and name == _SUBSCRIPTION:
            if type(payload) is not list or not payload or type(payload[0]) is not str:
                raise ProtocolError("a push is an array that starts with a word")
            if payload[0] == "ended":
                del self.in_flight[request_id]
            return Push(request_id, payload)
        raise ProtocolError(f"a response to request {request_id} ({name}) with status {status}")

    def _failure(self, request_id: int, name: str | None, payload: Any) -> Failure:
        _bound_depth(payload, 1)
        if request_id == 0:
            self._enter(State.CLOSED)
        elif name is None or name == _SUBSCRIPTION:
            raise ProtocolError(f"an error for request {request_id}, which is not open")
        else:
            del self.in_flight[request_id]
            if name in _SPECIAL:
                self._note_answer(request_id, name, ERROR, payload)
        return Failure(request_id, HeadwaterError.from_payload(payload))
