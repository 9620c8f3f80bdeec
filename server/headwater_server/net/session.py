"""A session: one connection of a client, bytes in and bytes out, without a socket or a task.

    driver --receive(data)--> requests --> handlers --> engine
       ^                                      |  commit: the answer waits for its sync
       '----- notify, output, sent -- output <+------------- release / fail --- group commit
                                              <------------- push ------------- subscriptions

The driver (plain_sockets, streams, a test) owns the bytes' way; it holds no protocol. It feeds
what came, and when `notify` was called it takes the output. It reads on while `wants_input`,
and calls `run` again while `runnable`.

Bounds. A client that does not read its answers is not read from (`output_pause_size`), nor one
that has too many commits waiting for a sync; what it sent stays in its socket. So a client can
make us hold one turn of requests and their answers, and no more.

Order. Answers come in order within one transaction: what is asked of a transaction whose commit
still waits for its sync is answered behind it. All else is answered as soon as it can be.
"""

from collections import deque
from collections.abc import Callable
from struct import Struct
from typing import TYPE_CHECKING, Any, Final

import structlog

from headwater_protocol.connection import Received, Refused, Request, ServerConnection, Violation
from headwater_protocol.errors import (
    CommitUnknown,
    HeadwaterError,
    InternalError,
    InvalidArgument,
    TooLarge,
)
from headwater_protocol.operations import OPERATIONS
from headwater_server.engine.sequencer import Ticket

if TYPE_CHECKING:
    from headwater_server.engine.accounts import Account
    from headwater_server.net.authentication import Exchange
    from headwater_server.net.group_deliveries import Membership
    from headwater_server.net.key_feeds import KeyFeed
    from headwater_server.net.service import Service
    from headwater_server.net.subscriptions import Subscription

_log = structlog.get_logger(__name__)

SEND_SIZE: Final = 256 * 1024
"""Bytes that are put together for one send; a socket seldom takes more."""

_IN_TRANSACTION: Final = frozenset(
    name
    for name, operation in OPERATIONS.items()
    if operation.arguments.arguments and operation.arguments.arguments[0].name == "transaction"
)

_COMMITS: Final = frozenset({"commit", "execute"})
"""Operations whose client can ask for the outcome, since it chose the transaction's id."""

_CHANGES: Final = _COMMITS | {
    "status",
    "nack",
    "group_create",
    "group_update",
    "group_delete",
    "group_replay",
    "group_discard",
    "user_set",
    "user_remove",
}
"""Operations that may commit. If one fails half-way, memory may hold half of it."""

_pack_size = Struct(">I").pack

Encode = Callable[[ServerConnection], bytes]
"""Makes the frame of an answer when its time has come."""

Answer = Encode | bytes
"""The answer to a request that waits, or a whole frame that is known before its time."""


class WaitingAnswers:
    """The answer of a commit that waits for its sync, and those that must come behind it.

    Attributes:
        answers: frames that may go out, and requests with their answers, which a failed sync can
            still turn into another answer.
        size: about the bytes that were received for it, all of which it keeps in memory.
    """

    __slots__ = ("_session", "answers", "sequence", "size", "transaction")

    def __init__(
        self, session: "Session", request_id: int, ticket: Ticket, answer: Answer, size: int
    ) -> None:
        self._session = session
        self.sequence = ticket.sequence
        self.transaction = ticket.transaction
        self.answers: list[bytes | tuple[int, Answer]] = [(request_id, answer)]
        self.size = size

    def release(self) -> None:
        """Send the answers: what they say is durable."""
        self._session.release(self)

    def fail(self) -> None:
        """Send errors that say that the commit's fate is unknown."""
        self._session.fail(self)


class Session:
    """One connection's conversation with the engine.

    Attributes:
        peer: the client's address, for logs.
        client: what the client calls itself in hello.
        account: the user, once one has proved to be it.
        connection: the protocol's state of this connection.
        subscriptions: the open ones, by the id of the request that opened them.
        key_feeds: the open feeds of keys, by the id of the request that opened them.
        memberships: in consumer groups, by the id of the request that joined.
        output_size: bytes that were not sent yet.
        output_blocked: too much of it; nothing more is served or pushed until it has shrunk.
        notified: the driver knows of output; it says False before it takes it.
        wants_input: the driver may read more from the client.
        runnable: requests are left of the last turn, and `run` would serve some of them.
        ended: nothing more is read or served.
        closing: nothing more is sent; the driver closes once the output is taken.
        aborted: the driver closes at once, even in the middle of a send.
    """

    def __init__(self, service: "Service", *, peer: str, notify: Callable[[], None]) -> None:
        self.service = service
        self.peer = peer
        self.client = ""
        self.account: Account | None = None
        self.exchange: Exchange | None = None
        self.authentications_failed = 0
        self.connection = ServerConnection()
        self.subscriptions: dict[int, Subscription] = {}
        self.key_feeds: dict[int, KeyFeed] = {}
        self.memberships: dict[int, Membership] = {}
        self.output_size = 0
        self.output_blocked = False
        self.wants_input = True
        self.runnable = False
        self.ended = False
        self.closing = False
        self.aborted = False
        self.closed = False
        self._settings = service.settings.session
        self.notified = False
        self._notify = notify
        self._output: list[bytes | memoryview] = []
        self._backlog: deque[Received] = deque()
        self._waiting: dict[bytes, WaitingAnswers] = {}
        self._waiting_count = 0
        self._received_size = 0
        self._last_word: tuple[int, HeadwaterError] | None = None

    def __str__(self) -> str:
        return " ".join(filter(None, (self.peer, self.user, self.client)))

    @property
    def user(self) -> str:
        """The user's name, or nothing."""
        return "" if self.account is None else self.account.name

    @property
    def user_number(self) -> int:
        """The number of the user, which commits are recorded with; 0 if there are no users."""
        return 0 if self.account is None else self.account.number

    # Input.

    def _look(self) -> None:
        """Say anew whether input is wanted; called whenever something of it has changed."""
        waiting = self._waiting_count
        held = (
            self.ended
            or self.output_blocked
            or (
                waiting > 0
                and (
                    waiting >= self._settings.requests_waiting_max
                    or self.service.group_commit.overloaded
                )
            )
        )
        left = bool(self._backlog)
        self.wants_input = not held and not left
        self.runnable = not held and left

    def receive(self, data: bytes) -> None:
        """Take received bytes, and serve what they complete, as far as one turn goes."""
        if self.ended:
            return
        self._received_size += len(data)
        items = self.connection.receive(data)
        if len(items) == 1 and self.wants_input:
            # Nearly always. It need not go through the backlog.
            self._take(items[0])
        elif items:
            self._backlog.extend(items)
            self._look()
            self.run()

    def run(self) -> None:
        """Serve requests that were received, as far as one turn goes."""
        backlog = self._backlog
        for _ in range(self._settings.requests_per_turn_max):
            if not self.runnable:
                return
            item = backlog.popleft()
            if not backlog:
                self._look()
            self._take(item)

    def _take(self, item: Received) -> None:
        if type(item) is Request:
            request_id, name, arguments = item
            self._serve(request_id, name, arguments)
        elif type(item) is Refused:
            self._refuse(item)
        elif type(item) is Violation:
            _log.info("protocol violation", session=str(self), error=item.error.message)
            self.end(item.error, request_id=item.request_id)

    def _serve(self, request_id: int, name: str, arguments: list[Any]) -> None:
        service = self.service
        try:
            if service.authentication_needed:
                service.authorize(name, self)
            answer = service.handlers[name](self, request_id, arguments)
        except HeadwaterError as error:
            answer = self.connection.error(request_id, error)
            if name in _IN_TRANSACTION and isinstance(error, InvalidArgument | TooLarge):
                # As `_refuse` does: the client cannot tell who of us found the argument wrong.
                service.engine.rollback(arguments[0], self)
        except Exception as error:
            answer = self._failed(request_id, name, arguments, error)
        if answer is None:
            return
        self._received_size = 0
        if self._waiting and name in _IN_TRANSACTION and self._put_behind(arguments[0], answer):
            return
        self.send(answer)
        if self.ended and self._last_word is None:
            self.closing = True

    def _failed(
        self, request_id: int, name: str, arguments: list[Any], error: Exception
    ) -> bytes | None:
        """Answer a request after an exception that is no fault of the client."""
        if isinstance(error, OSError) and name not in _CHANGES:
            # Reads change nothing, so the disk's error is the answer and everybody else goes on.
            _log.error("a read failed", session=str(self), operation=name, exc_info=error)
            return self.connection.error(
                request_id, InternalError(f"{name} failed in the server; its log says more")
            )
        if name in _COMMITS:
            self.send(self._commit_unknown(request_id, arguments[0]))
        else:
            self.send(
                self.connection.error(
                    request_id, InternalError(f"{name} failed in the server, which ends")
                )
            )
        self.service.failures.end_process(error, name)
        return None

    def _commit_unknown(self, request_id: int, transaction: bytes) -> bytes:
        error = CommitUnknown(
            "the server could not make the commit durable, and ends; "
            "ask for the transaction's status once it is back",
            details={"transaction": transaction},
        )
        return self.connection.error(request_id, error)

    def _refuse(self, refused: Refused) -> None:
        answer = self.connection.error(refused.request_id, refused.error)
        if refused.transaction is not None:
            # What the client sends next in it may rest on what was refused.
            self.service.engine.rollback(refused.transaction, self)
        if not self._put_behind(refused.transaction, answer):
            self.send(answer)

    def _put_behind(self, transaction: bytes | None, answer: bytes) -> bool:
        """Put an answer behind that of its transaction's commit, if that still waits."""
        waiting = None if transaction is None else self._waiting.get(transaction)
        if waiting is None:
            return False
        waiting.answers.append(answer)
        return True

    # Answers that wait for a sync.

    def answer_durable(self, request_id: int, ticket: Ticket, answer: Answer) -> bytes | None:
        """The frame of *answer* if its ticket is durable; else None, and it goes out then."""
        first = self._waiting.get(ticket.transaction) if self._waiting else None
        if first is None and ticket.sequence <= self.service.engine.durable_sequence:
            return self._encode(request_id, ticket.transaction, answer)
        self._waiting_count += 1
        if (
            self._waiting_count >= self._settings.requests_waiting_max
            or self.service.group_commit.overloaded
        ):
            self._look()
        if first is not None and ticket.sequence <= first.sequence:
            first.answers.append((request_id, answer))
            return None
        size, self._received_size = self._received_size, 0
        waiting = WaitingAnswers(self, request_id, ticket, answer, size)
        self._waiting[ticket.transaction] = waiting
        self.service.group_commit.wait_for(waiting)
        return None

    def release(self, waiting: WaitingAnswers) -> None:
        """Send answers whose sync is done."""
        for request in self._end_wait(waiting):
            if isinstance(request, bytes):
                self.send(request)
            else:
                request_id, answer = request
                frame = self._encode(request_id, waiting.transaction, answer)
                if frame is not None:
                    self.send(frame)
        if self._last_word is not None:
            self._say_last_word()

    def fail(self, waiting: WaitingAnswers) -> None:
        """Say of commits that their fate is unknown."""
        for request in self._end_wait(waiting):
            if type(request) is bytes:
                self.send(request)
                continue
            self.send(self._commit_unknown(request[0], waiting.transaction))
        self._say_last_word()

    def _encode(self, request_id: int, transaction: bytes, answer: Answer) -> bytes | None:
        if isinstance(answer, bytes):
            return self.connection.answer_frame(request_id, answer)
        try:
            return answer(self.connection)
        except Exception as error:
            # The commit stands, and the client can hear so once the server is back.
            self.send(self._commit_unknown(request_id, transaction))
            self.service.failures.end_process(error, "the answer to a commit")
            return None

    def _end_wait(self, waiting: WaitingAnswers) -> list[bytes | tuple[int, Answer]]:
        answers = waiting.answers
        if self._waiting.get(waiting.transaction) is waiting:
            del self._waiting[waiting.transaction]
        for answer in answers:
            if type(answer) is tuple:
                self._waiting_count -= 1
        # One commit less that waits can let requests in again, and never keeps them out.
        if not self.wants_input and not self.runnable:
            self._look()
        return [] if self.closed else answers

    # Output.

    def send(self, frame: bytes) -> None:
        """Put a frame into the output."""
        if self.closing:
            return
        self._output.append(frame)
        self.output_size += len(frame)
        if self.output_size > self._settings.output_pause_size:
            self._bound_output()
        if not self.notified:
            self.notified = True
            self._notify()

    def send_shared(self, head: bytes, shared: bytes) -> None:
        """Put a frame into the output whose body is *head* and *shared*, which is not copied."""
        self.send(_pack_size(len(head) + len(shared)) + head)
        self.send(shared)

    def _bound_output(self) -> None:
        self.output_blocked = True
        self._look()
        if self.output_size > self._settings.output_size_max and not self.closing:
            _log.warning(
                "closed: the client does not read its answers",
                session=str(self),
                output_size=self.output_size,
                output_size_max=self._settings.output_size_max,
            )
            # Not told: the client would have to read all of it before it got to this.
            self.abort()

    def push(self, subscription: "Subscription", payload: list[Any]) -> None:
        """Send a subscription's word that is no batch of events."""
        self.send(self.connection.push(subscription.request_id, payload))

    def output(self) -> bytes | memoryview:
        """What to send next; empty if there is nothing. `sent` tells how much of it went out."""
        chunks = self._output
        if len(chunks) == 1:
            return chunks[0]
        if not chunks:
            return b""
        size = count = 0
        for chunk in chunks:
            size += len(chunk)
            count += 1
            if size >= SEND_SIZE:
                break
        joined = b"".join(chunks[:count])
        chunks[:count] = [joined]
        return joined

    def sent(self, size: int) -> None:
        """Forget the first *size* bytes of what `output` returned."""
        if not self._output:
            # Thrown away meanwhile, by `abort`.
            return
        first = self._output[0]
        if size == len(first):
            del self._output[0]
        elif size:
            # A view: a large answer goes out in many pieces, and must not be copied for each.
            self._output[0] = memoryview(first)[size:]
        self.output_size -= size
        if self.output_blocked and self.output_size <= self._settings.output_resume_size:
            self.output_blocked = False
            self._look()
            self.service.subscriptions.resume(self)
            if self.memberships:
                self.service.group_deliveries.wake()

    # The end.

    def end(self, error: HeadwaterError, *, request_id: int = 0) -> None:
        """Take no more requests; once no commit waits, tell the client why, and close."""
        if self.ended:
            return
        self.ended = True
        self._backlog.clear()
        self._look()
        self._last_word = (request_id, error)
        self.service.depart(self)
        self._say_last_word()

    def _say_last_word(self) -> None:
        if self._last_word is None or self._waiting or self.closing:
            return
        request_id, error = self._last_word
        self.connection.close()
        self.send(self.connection.error(request_id, error))
        self.closing = True

    def end_after_answer(self) -> None:
        """Close once the answer that is being made has been sent."""
        self.ended = True
        self._look()
        self.service.depart(self)

    def abort(self) -> None:
        """Throw away what was not sent, and let the driver close at once."""
        self._output.clear()
        self.output_size = 0
        self.aborted = self.ended = self.closing = True
        self._look()
        self._notify()

    def close(self) -> None:
        """The connection is gone: what the session holds goes with it."""
        if self.closed:
            return
        self.closed = self.closing = self.ended = True
        self._look()
        self._backlog.clear()
        self._output.clear()
        self.output_size = 0
        # The driver's end holds the session, and the session it: nobody else should have to
        # find out that neither is needed.
        self._notify = _nobody
        self.service.close_session(self)


def _nobody() -> None:
    """Stands for a driver that has gone."""
