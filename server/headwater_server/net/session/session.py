"""A session: one connection of a client, bytes in and bytes out, without a socket or a task.

    driver --receive(data)--> requests --> handlers --> engine
       ^                                      |  commit: the answer waits for its sync
       '----- notify, output, sent -- output <+------------- release / fail --- group commit
                                              <------------- push ------------- feeds

The driver (plain_sockets, streams, a test) moves the bytes and knows no protocol. It passes input
to `receive` while `wants_input`, sends output after `notify`, and calls `run` while `runnable`.

Bounds. We stop reading from a client that does not read its answers (`output_pause_size`), or that
has too many commits waiting for a sync. Its requests then stay in the socket. So a client can make
us hold one turn of requests and their answers, and no more.

Order. Answers within one transaction come in order: a request in a transaction whose commit still
waits for its sync is answered after the commit. All others are answered as soon as possible.
"""

from collections import deque
from collections.abc import Callable
from struct import Struct
from typing import Any, Final

import structlog

from headwater_protocol.connection import Received, Refused, Request, ServerConnection, Violation
from headwater_protocol.errors import HeadwaterError
from headwater_protocol.operations import IN_TRANSACTION
from headwater_server.engine.accounts import Account
from headwater_server.engine.transactions.sequencer import Ticket
from headwater_server.net.push.channels import Channel
from headwater_server.net.service import Service
from headwater_server.net.session import failed_requests as failed
from headwater_server.net.session.authentication import Exchange
from headwater_server.net.session.memory_budget import FREE_SIZE
from headwater_server.net.session.traces import Traces
from headwater_server.net.session.waiting_answers import Answer, WaitingAnswers, last_with

_log = structlog.get_logger(__name__)

SEND_SIZE: Final = 256 * 1024
"""Bytes that one send joins; a socket seldom takes more."""

_pack_size = Struct(">I").pack


class Session:
    """One connection's conversation with the engine.

    Attributes:
        peer: the client's address, for logs.
        client: what the client calls itself in hello.
        knows_nodes: whether it expects the node in the answers to hello and ping.
        traces: of the requests that belong to traces; None: the client has sent none.
        account: the user, once authenticated.
        user_number: the user's number, recorded with commits; 0 without a user.
        connection: the protocol's state of this connection.
        feeds: the open feeds and memberships, by the id of the request that opened them.
        held_for_commit: bytes of the request that is being served, and of its results.
        output_size: bytes not sent yet.
        output_blocked: output_size is too large; nothing is served or pushed until it shrinks.
        suspended: nothing is served until a change of the user's rights is durable.
        waiting_to_write: nothing is served until another's long request is done.
        notified: the driver knows of output; it sets this to False before it takes the output.
        wants_input: the driver may read more from the client.
        runnable: requests are left from the last turn, and `run` would serve some of them.
        ended: nothing more is read or served.
        closing: nothing more is added to the output; the driver sends the rest and closes.
        aborted: the driver closes immediately, even in the middle of a send.
    """

    def __init__(self, service: Service, *, peer: str, notify: Callable[[], None]) -> None:
        self.service = service
        self.peer = peer
        self.client, self.knows_nodes = "", False
        self.traces: Traces | None = None
        self.account: Account | None = None
        self.user_number = self.authentications_failed = 0
        self.exchange: Exchange | None = None
        self.connection = ServerConnection()
        self.feeds: dict[int, Channel] = {}
        self.output_size = self._sent_part = 0
        self.output_blocked = self.suspended = self.waiting_to_write = False
        self.wants_input, self.runnable = True, False
        self.ended = self.closing = self.aborted = self.closed = False
        self._settings = service.settings.session
        self._output_bounded_size = min(self._settings.output_pause_size, FREE_SIZE)
        self._budget = service.memory_budget
        self._charged = self._paused = self.notified = False
        self._notify = notify
        self._output: list[bytes | memoryview] = []
        self._backlog: deque[Received] = deque()
        self._waiting: list[WaitingAnswers] = []
        self._waiting_count = self.held_for_commit = self._backlog_size = self._partial_size = 0
        self._end_reason: tuple[int, HeadwaterError] | None = None

    def __str__(self) -> str:
        return " ".join(filter(None, (self.peer, self.user, self.client)))

    @property
    def user(self) -> str:
        """The user's name, or ""."""
        return "" if self.account is None else self.account.name

    # Input.

    def _update_readiness(self) -> None:
        """Recompute `wants_input` and `runnable`; call it after anything they depend on changed."""
        waiting, most = self._waiting_count, self._settings.requests_waiting_max
        late = waiting > 0 and (waiting >= most or self.service.group_commit.overloaded)
        stopped = self.ended or self.suspended or self.waiting_to_write
        held = stopped or self.output_blocked or late
        left = bool(self._backlog)
        self.wants_input = not held and not left and not self._paused
        self.runnable = not held and left

    def receive(self, data: bytes, *, later: bool = False) -> None:
        """Take received bytes; serve the requests that they complete for one turn, or *later*."""
        if self.ended:
            return
        self.held_for_commit += len(data)
        items = self.connection.receive(data)
        if len(items) == 1 and self.wants_input and not later:
            item = items[0]
            if type(item) is Request:
                self.serve(item.request_id, item.name, item.arguments)
            else:
                self._take(item)
        elif items:
            self._backlog.extend(items)
            self._backlog_size += self._partial_size + len(data)
            self._update_readiness()
            if not later:
                self.run()
        self._partial_size = self.connection.buffered_size
        if self._charged or self._backlog or self._partial_size > FREE_SIZE:
            self._charge_memory(moved=True)

    def run(self) -> None:
        """Serve received requests, for one turn."""
        backlog = self._backlog
        turn = self.service.session_turn
        turn.begin()
        clock = self.service.engine.sequencer.clock
        clock.hold()
        try:
            for place in range(self._settings.requests_per_turn_max):
                if not self.runnable or (place and turn.over):
                    break
                item = backlog.popleft()
                if not backlog:
                    self._backlog_size = 0
                    self._update_readiness()
                self._take(item)
        finally:
            clock.release()
        if self._charged:
            self._charge_memory(moved=False)

    def _take(self, item: Received) -> None:
        if type(item) is Request:
            self.serve(item.request_id, item.name, item.arguments)
        elif type(item) is Refused:
            self._refuse(item)
        elif type(item) is Violation:
            _log.info("protocol violation", session=str(self), error=item.error.message)
            self.end(item.error, request_id=item.request_id)

    def serve(self, request_id: int, name: str, arguments: list[Any]) -> None:
        service = self.service
        try:
            if service.authentication_needed:
                service.authorize(name, self, self.account, arguments)
            answer = service.handlers[name](self, request_id, arguments)
        except failed.ServeAgain:
            self._backlog.appendleft(Request(request_id, name, arguments))
            self._update_readiness()
            return
        except HeadwaterError as error:
            answer = self.connection.error(request_id, error)
            over = name in IN_TRANSACTION and isinstance(error, failed.ENDS_TRANSACTION)
            if over and arguments[0] is not None:
                service.engine.rollback(arguments[0], self)
        except Exception as error:
            answer, ends = failed.failed_answer(self.connection, request_id, name, arguments, error)
            if ends:
                self.send(answer)
                service.failures.end_process(error, name)
                return
        if answer is None:
            return
        self.held_for_commit = 0
        if self._waiting and name in IN_TRANSACTION and self._put_behind(arguments[0], answer):
            return
        self.send(answer)
        if self.ended and self._end_reason is None:
            self.closing = True

    def serve_later(self, request_id: int, name: str, arguments: list[Any]) -> None:
        """Serve a request that has waited for something, in a turn of the session."""
        if not self.ended:
            self._backlog.append(Request(request_id, name, arguments))
            self.go_on()

    def _refuse(self, refused: Refused) -> None:
        answer = self.connection.error(refused.request_id, refused.error)
        if refused.transaction is not None:
            # Later requests in this transaction may depend on the refused one.
            self.service.engine.rollback(refused.transaction, self)
        if not self._put_behind(refused.transaction, answer):
            self.send(answer)

    def _put_behind(self, transaction: bytes | None, answer: bytes) -> bool:
        """Queue an answer after that of its transaction's commit, if the commit still waits."""
        if transaction is not None and (waiting := last_with(self._waiting, transaction)):
            self._waiting_count += 1
            waiting.answers.append((0, transaction, answer))
            return True
        return False

    # Answers that wait for a sync.

    def answer_durable(self, request_id: int, ticket: Ticket, answer: Answer) -> bytes | None:
        """The frame of *answer* if its ticket is durable; else None, and it is sent later."""
        sequence = ticket.sequence
        transaction = ticket.transaction
        group_commit = self.service.group_commit
        waiting: WaitingAnswers | None
        if sequence <= self.service.engine.sequencer.durable_sequence:
            waiting = last_with(self._waiting, transaction) if self._waiting else None
            if waiting is None:
                return self._encode(request_id, transaction, answer)
        else:
            waiting = self._waiting[-1] if self._waiting else None
            size, self.held_for_commit = self.held_for_commit, 0
            if waiting is None or (waiting.taken and sequence > waiting.sequence):
                waiting = WaitingAnswers(self, sequence, size)
                waiting.answers.append((request_id, transaction, answer))
                self._waiting.append(waiting)
                self._waiting_count += 1
                # After a failure, this calls `fail` immediately.
                group_commit.wait_for(waiting)
                if group_commit.overloaded:
                    self._update_readiness()
                return None
            if sequence > waiting.sequence:
                waiting.sequence = sequence
            waiting.size += size
            group_commit.grow(size)
        waiting.answers.append((request_id, transaction, answer))
        self._waiting_count += 1
        if self._waiting_count >= self._settings.requests_waiting_max or group_commit.overloaded:
            self._update_readiness()
        return None

    def release(self, waiting: WaitingAnswers) -> None:
        """Send answers whose sync is done."""
        self._waiting.remove(waiting)
        answers = waiting.answers
        self._waiting_count -= len(answers)
        in_flight = self.connection.in_flight
        for request_id, transaction, answer in answers:
            if self.closed:
                break
            if isinstance(answer, bytes):
                if request_id:
                    # The same as connection.answer_frame, without the call.
                    del in_flight[request_id]
                self.send(answer)
            else:
                frame = self._encode(request_id, transaction, answer)
                if frame is not None:
                    self.send(frame)
        if not self.wants_input and not self.runnable:
            self._update_readiness()
        if self._end_reason is not None:
            self._send_end_reason()

    def fail(self, waiting: WaitingAnswers) -> None:
        """Tell the client that the outcome of these commits is unknown."""
        if waiting in self._waiting:
            self._waiting.remove(waiting)
        self._waiting_count -= len(waiting.answers)
        for request_id, transaction, answer in waiting.answers:
            if isinstance(answer, bytes) and not request_id:
                self.send(answer)
            elif not self.closed:
                self.send(failed.commit_unknown(self.connection, request_id, transaction))
        self._send_end_reason()

    def _encode(self, request_id: int, transaction: bytes, answer: Answer) -> bytes | None:
        if isinstance(answer, bytes):
            return self.connection.answer_frame(request_id, answer)
        try:
            return answer(self.connection)
        except Exception as error:
            # The commit stands; the client can ask for its status after the restart.
            self.send(failed.commit_unknown(self.connection, request_id, transaction))
            self.service.failures.end_process(error, "the answer to a commit")
            return None

    # Output.

    def send(self, frame: bytes) -> None:
        """Add a frame to the output."""
        if self.closing:
            return
        self._output.append(frame)
        self.output_size += len(frame)
        if self.output_size > self._output_bounded_size:
            if self.output_size > self._settings.output_pause_size:
                self._bound_output()
            self._charge_memory(moved=False)
        if not self.notified:
            self.notified = True
            self._notify()

    def send_shared(self, head: bytes, shared: bytes) -> None:
        """Add a frame with the body *head* + *shared* to the output; *shared* is not copied."""
        self.send(_pack_size(len(head) + len(shared)) + head)
        self.send(shared)

    def _bound_output(self) -> None:
        self.output_blocked = True
        self._update_readiness()
        if self.output_size > self._settings.output_size_max and not self.closing:
            _log.warning(
                "closed: the client does not read its answers",
                session=str(self),
                output_size=self.output_size,
                output_size_max=self._settings.output_size_max,
            )
            # No error is sent: the client would have to read all the output before it.
            self.abort()

    def output(self) -> bytes | memoryview:
        """The bytes to send next, b"" if there are none. Call `sent` with how many were sent."""
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
        self._sent_part = 0
        return joined

    def sent(self, size: int) -> None:
        """Forget the first *size* bytes of what `output` returned."""
        if not self._output:
            # `abort` has discarded it meanwhile.
            return
        first = self._output[0]
        if size == len(first):
            del self._output[0]
            self._sent_part = 0
        elif size:
            # A view, as copies cost much. But it keeps the whole answer, so copy when half is sent.
            view = memoryview(first)[size:]
            self._sent_part += size
            if self._sent_part < len(view):
                self._output[0] = view
            else:
                self._output[0], self._sent_part = bytes(view), 0
        self.output_size -= size
        if self._charged:
            self._charge_memory(moved=size > 0)
        if self.output_blocked and self.output_size <= self._settings.output_resume_size:
            self.output_blocked = False
            self._update_readiness()
            for channel in self.feeds.values():
                channel.owner.resume(channel)

    # Memory. Bytes held for a client are charged to the server's memory budget.

    @property
    def held_size(self) -> int:
        """Bytes received and not yet served, plus those of answers that are not yet sent."""
        received = self.connection.buffered_size + self._backlog_size
        return received + self.output_size + self._sent_part

    @property
    def authenticated(self) -> bool:
        """Whether the client has said hello and, if required, authenticated."""
        return self not in self.service.strangers

    def _charge_memory(self, *, moved: bool) -> None:
        self._charged = self._budget.hold(self, self.held_size, moved=moved)

    def pause(self) -> None:
        """Read nothing more from the client, and push nothing, until `resume`."""
        _log.info(
            "reading paused: the memory budget is used up", session=str(self), held=self.held_size
        )
        self._paused = True
        if self.output_size > FREE_SIZE:
            self.output_blocked = True
        self._update_readiness()

    def resume(self) -> None:
        """The memory budget has room again: read from the client."""
        self._paused = False
        self.go_on()

    def suspend(self, *, on: bool) -> None:
        """Serve nothing (*on*) until the same is called with False."""
        self.suspended = on
        self.go_on()

    def go_on(self) -> None:
        """What held this session back may be over: serve it."""
        self._update_readiness()
        if not self.notified and not self.closed:
            self.notified = True
            self._notify()

    def end_over_budget(self, error: HeadwaterError) -> None:
        """Free the memory, tell the client why if it reads its output, and close."""
        _log.warning("closed: holds too much, or stalls", session=str(self), error=error.message)
        self.connection.close()
        if self.output_size > FREE_SIZE:
            # No error is sent: the client would have to read all the output before it.
            self.abort()
        else:
            self.end(error)
        self._charge_memory(moved=False)

    # The end.

    def end(self, error: HeadwaterError, *, request_id: int = 0) -> None:
        """Take no more requests; once no commit waits, tell the client why, and close."""
        if self.ended:
            return
        self.ended = True
        self._discard(output=False)
        self._update_readiness()
        self._end_reason = (request_id, error)
        self.service.depart(self)
        self._send_end_reason()

    def _send_end_reason(self) -> None:
        if self._end_reason is None or self._waiting or self.closing:
            return
        self.connection.close()
        if self._charged:
            self._charge_memory(moved=False)
        self.send(self.connection.error(*self._end_reason))
        self.closing = True

    def end_after_answer(self) -> None:
        """Close once the answer to the current request has been sent."""
        self.ended = True
        self._update_readiness()
        self.service.depart(self)

    def abort(self) -> None:
        """Discard the output, and let the driver close immediately."""
        self.aborted = self.ended = self.closing = True
        self._discard(output=True)
        self._update_readiness()
        self._notify()

    def close(self) -> None:
        """The connection is gone: release everything that the session holds."""
        if self.closed:
            return
        self.closed = self.closing = self.ended = True
        self._update_readiness()
        self.connection.close()
        self._discard(output=True)
        # Break the reference cycle with the driver, so that reference counting frees both.
        self._notify = _nobody
        self.service.close_session(self)

    def _discard(self, *, output: bool) -> None:
        self._backlog.clear()
        self._backlog_size = 0
        if output:
            self._output.clear()
            self.output_size = self._sent_part = 0
        if self._charged:
            self._charge_memory(moved=False)


def open_session(service: Service, peer: str, notify: Callable[[], None]) -> Session:
    """Open a session for a new connection. It raises what `Service.check_room` does."""
    service.check_room(peer)
    session = Session(service, peer=peer, notify=notify)
    service.enter(session)
    return session


def _nobody() -> None:
    """Replaces the notify of a driver that is gone."""
