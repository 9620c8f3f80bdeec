"""Long requests: evaluated in steps, between which other clients are served.

    session --InSteps--> begin      a greenlet will run the engine's call
       '---- each turn --> step     it runs on to its next pause, until it is done

A greenlet keeps the engine synchronous: it calls `Cutting.pause` deep inside of a plan, and the
call returns in a later turn.

A plan depends on the newest state, so nothing may be sequenced between its steps. Requests that
write wait meanwhile; reads are served. Who cannot wait (a tick, a checkpoint, a group's turn)
interrupts the plan, and it begins again. After TRIES_MAX tries it is made in one stretch, so it
comes to an end.

Those who have waited are served before the next long request begins. Otherwise one client with
many of them would shut out all writers.
"""

from collections.abc import Callable, Mapping
from typing import Any, Final

import greenlet

from headwater_protocol.errors import TooLarge
from headwater_server.engine.accounts import Account
from headwater_server.engine.engine import Engine
from headwater_server.engine.work_budget import Cutting
from headwater_server.net.session.failed_requests import COMMITS, KEPT_IN_MEMORY, ServeAgain
from headwater_server.net.session.peer import Peer

TRIES_MAX: Final = 4
"""Tries of a plan. Ticks and groups wait for it, so only checkpoints interrupt it often."""

PASSES_MAX: Final = 8
"""Turns in which those who have waited are served before the next long request begins."""

Handler = Callable[[Any, int, list[Any]], bytes | None]


class LongRequest:
    """A call of the engine that runs in steps.

    Attributes:
        request_id: of the request.
        account: the user for whom it was authorized.
        began: in seconds of the event loop's clock.
        result: of the call, once it is done.
    """

    def __init__(
        self,
        request_id: int,
        account: Account | None,
        call: Callable[[Cutting | None], Any],
        began: float,
    ) -> None:
        self.request_id = request_id
        self.account = account
        self.began = began
        self.result: Any = None
        self._call = call
        self._tries = 0
        self._running: greenlet.greenlet | None = None

    @property
    def begun(self) -> bool:
        """Whether it is between two steps."""
        return self._running is not None

    def step(self) -> bool:
        """Run to the next pause; return whether the call is done. Raises what the call raises."""
        running = self._running
        if running is None:
            self._tries += 1
            if self._tries > TRIES_MAX:
                self.result = self._call(None)
                return True
            running = self._running = greenlet.greenlet(self._run)
        running.parent = greenlet.getcurrent()
        running.switch()
        return running.dead

    def _run(self) -> None:
        self.result = self._call(Cutting(self._pause, self.interrupt))

    @staticmethod
    def _pause() -> None:
        parent = greenlet.getcurrent().parent
        assert parent is not None, "it is called in a step"
        parent.switch()

    def interrupt(self) -> None:
        """Give up what was done; the next step begins again."""
        running, self._running = self._running, None
        if running is not None and not running.dead:
            assert running is not greenlet.getcurrent(), "a plan does not interrupt itself"
            running.parent = greenlet.getcurrent()
            running.throw()


class LongRequests:
    """The long requests of all sessions, at most one of each.

    Attributes:
        running: by session.
    """

    def __init__(
        self,
        engine: Engine,
        handlers: Mapping[str, Handler],
        *,
        use: Callable[[Mapping[str, Handler]], None],
        monotonic: Callable[[], float],
        request_ms_max: int,
    ) -> None:
        """*use* is called with the handlers to use: those in which writers wait, or *handlers*."""
        self._engine = engine
        self._use = use
        self._monotonic = monotonic
        self._request_ms_max = request_ms_max
        self._open = handlers
        self._gated = {
            **handlers,
            **{name: self._gate(name, handlers[name]) for name in COMMITS | KEPT_IN_MEMORY},
        }
        self.running: dict[Peer, LongRequest] = {}
        self._holder: Peer | None = None
        self._waiting: dict[Peer, None] = {}
        self._let_through: dict[Peer, None] = {}
        self._passes = 0

    def begin(
        self, session: Peer, request_id: int, call: Callable[[Cutting | None], Any]
    ) -> ServeAgain:
        """Serve a request in steps; raise what is returned."""
        self.running[session] = LongRequest(request_id, session.account, call, self._monotonic())
        return ServeAgain()

    def step(self, session: Peer, request_id: int) -> Any:
        """The result of the session's long request, or None if it has none with this id.

        Raises:
            ServeAgain: it is not done.
            TooLarge: it has taken too long.
        """
        running = self.running.get(session)
        if running is None or running.request_id != request_id:
            return None
        if not running.begun and self._must_wait(session):
            raise ServeAgain
        request_ms_max = self.request_ms_max(session)
        if self._monotonic() - running.began >= request_ms_max / 1000:
            self.drop(session)
            raise TooLarge(f"the request took longer than {request_ms_max} ms")
        try:
            done = running.step()
        except BaseException:
            self.drop(session)
            raise
        if not done:
            if self._engine.sequencer.planning:
                self._holder = session
                self._use(self._gated)
            raise ServeAgain
        self.drop(session)
        return running.result

    def request_ms_max(self, session: Peer) -> int:
        """How long a request of this session may take, in milliseconds."""
        account = session.account
        if account is None or account.request_ms is None:
            return self._request_ms_max
        return account.request_ms

    def drop(self, session: Peer) -> None:
        """Forget the session's long request. If it is not done, it has changed nothing."""
        running = self.running.pop(session, None)
        self._waiting.pop(session, None)
        self._let_through.pop(session, None)
        if running is not None:
            running.interrupt()
        if self._holder is session:
            self._open_gate()

    def _open_gate(self) -> None:
        self._holder = None
        self._use(self._open)
        self._let_through, self._waiting = self._waiting, {}
        self._passes = 0
        for session in self._let_through:
            session.waiting_to_write = False
            session.go_on()

    def _must_wait(self, session: Peer) -> bool:
        """Whether a long request may not begin yet."""
        if self._holder is not None and self._holder is not session:
            self._wait(session)
            return True
        if self._passes < PASSES_MAX and any(each.runnable for each in self._let_through):
            self._passes += 1
            return True
        self._let_through = {}
        return False

    def _wait(self, session: Peer) -> None:
        self._waiting[session] = None
        session.waiting_to_write = True

    def _gate(self, name: str, handler: Handler) -> Handler:
        """The handler while a plan is made in steps: a request that writes waits for its end."""

        def serve(session: Any, request_id: int, arguments: list[Any]) -> bytes | None:
            if session is not self._holder and self._may_write(name, session, arguments):
                self._wait(session)
                raise ServeAgain
            return handler(session, request_id, arguments)

        return serve

    def _may_write(self, name: str, session: Peer, arguments: list[Any]) -> bool:
        if name == "execute":
            return bool(arguments[3]) or session in self.running
        return name != "status" or bool(arguments[1])
