"""The recorder: how long requests take, and which fail.

    request --> TimedHandler --> handler --> answer            its duration is added
                                   '-------> None: it waits    until the group with its commit is
                                                               published; then it is added

A server without monitoring has no recorder and does not wrap its handlers, so it pays nothing for
measurements.
"""

from collections.abc import Callable, Mapping
from typing import Any, Final

from headwater_protocol.errors import HeadwaterError
from headwater_server.engine.transactions.sequencer import Sequencer
from headwater_server.engine.work_budget import WorkBudget
from headwater_server.net.histograms import Histogram, durations
from headwater_server.net.session.failed_requests import COMMITS, ServeAgain

Handler = Callable[[Any, int, list[Any]], bytes | None]

OnSlow = Callable[[str, Any, list[Any], int, int, WorkBudget | None, str], None]
OnTraced = Callable[[str, Any, str, int, str], None]

RECORDS_BUCKETS: Final = 14
"""Buckets of the number of records in a group: 1, 2, 4, … 8192."""

NOT_WAITING: Final = frozenset({"backup", "connection_close"})
"""Operations whose answers come later, but not with the publication of a group."""

STEPPED_MAX: Final = 10_000
"""Sessions for which the start of a request that is served in steps is remembered. For further
sessions, only the last step is measured."""


class Recorder:
    """Measures requests and groups.

    Attributes:
        operations: the durations of each operation, in nanoseconds.
        failed: how often an operation failed with an error, by operation and code.
        groups: how many records each group had.
    """

    def __init__(
        self,
        clock: Callable[[], int],
        *,
        slow_ns_min: int | None = None,
        on_slow: OnSlow | None = None,
        on_traced: OnTraced | None = None,
    ) -> None:
        """*clock* is monotonic, in nanoseconds.

        *on_slow* is called with each request that took *slow_ns_min* or longer: its operation,
        session and arguments, how long it was served, how long it waited for its sync, the work
        that it was charged for, and its traceparent or "".

        *on_traced* is called with each request that belongs to a trace: its operation, session,
        traceparent, duration, and the code of its error or "".
        """
        assert (slow_ns_min is None) == (on_slow is None), "a bound, and what to do above it"
        self.clock = clock
        self.operations: dict[str, Histogram] = {}
        self.failed: dict[tuple[str, str], int] = {}
        self.groups = Histogram(1, RECORDS_BUCKETS)
        self.begun_before: dict[Any, tuple[int, int]] = {}
        self.tells = slow_ns_min is not None or on_traced is not None
        self._slow_ns_min = slow_ns_min if slow_ns_min is not None else 1 << 60
        self._on_slow = on_slow
        self._on_traced = on_traced
        self._waiting: list[Waiting] = []
        self._published = 0

    @property
    def waiting(self) -> int:
        """How many requests wait for a sync."""
        return len(self._waiting)

    def timed(self, handlers: Mapping[str, Handler], sequencer: Sequencer) -> dict[str, Handler]:
        """Wrap handlers, so that their requests are measured."""
        self._published = sequencer.durable_sequence
        return {
            name: TimedHandler(self, name, handler, sequencer) for name, handler in handlers.items()
        }

    def after(self, publish: Callable[[], None], sequencer: Sequencer) -> Callable[[], None]:
        """Wrap the function called after a publish, to measure the requests that it answers."""
        return MeasuredPublish(self, publish, sequencer)

    def wait(self, waiting: "Waiting") -> None:
        """Note a request that is served, and whose answer waits for a publish."""
        self._waiting.append(waiting)

    def published(self, sequence: int) -> None:
        """Measure the requests whose answers were sent, after a publish up to *sequence*."""
        self.groups.add(sequence - self._published)
        self._published = sequence
        waiting = self._waiting
        if not waiting:
            return
        now = self.clock()
        if waiting[-1][0] <= sequence:
            # The list is in the order of sequence numbers, so all requests in it are done.
            self._waiting = []
        else:
            self._waiting = [each for each in waiting if each[0] > sequence]
        for each in waiting:
            if each[0] > sequence:
                break
            took = now - each[1]
            each[2].durations.add(took)
            served = each[3]
            if served is not None:
                self.tell(each[2].name, served, served.ended - each[1], took)

    def fail(self, name: str, code: str) -> None:
        """Count a failed request."""
        self.failed[name, code] = self.failed.get((name, code), 0) + 1

    def note_begun(self, session: Any, request_id: int, began: int) -> None:
        """Remember when a request that is served in several steps began."""
        before = self.begun_before
        if session in before and before[session][0] == request_id:
            return
        for gone in [each for each in before if each.closed]:
            del before[gone]
        if len(before) < STEPPED_MAX:
            before[session] = (request_id, began)

    def begun(self, session: Any, request_id: int, began: int) -> int:
        """When a request that is now done began. Its last step began at *began*."""
        before = self.begun_before.pop(session, None)
        return before[1] if before is not None and before[0] == request_id else began

    def wants(self, session: Any, took_ns: int) -> bool:
        """Whether a request may have to be reported: it was slow, or its client sends traces."""
        return took_ns >= self._slow_ns_min or session.traces is not None

    def tell(self, name: str, served: "Served", served_ns: int, took_ns: int) -> None:
        """Report an answered request, if it was slow or belongs to a trace."""
        is_slow = took_ns >= self._slow_ns_min
        traces = served.session.traces
        traceparent = "" if traces is None else traces.of(served.request_id)
        if is_slow and self._on_slow is not None:
            waited_ns = took_ns - served_ns
            self._on_slow(
                name,
                served.session,
                served.arguments,
                served_ns,
                waited_ns,
                served.work,
                traceparent,
            )
        if traceparent and self._on_traced is not None:
            self._on_traced(name, served.session, traceparent, took_ns, served.code)


class Served:
    """The report of a request, for the case that it is slow or belongs to a trace."""

    def __init__(
        self,
        ended: int,
        session: Any,
        request_id: int,
        arguments: list[Any],
        work: WorkBudget | None,
        code: str = "",
    ) -> None:
        self.ended = ended
        self.session = session
        self.request_id = request_id
        self.code = code
        self.arguments = arguments
        self.work = work


Waiting = tuple[int, int, "TimedHandler", Served | None]
"""A request that waits for a sync: its sequence number, when it began, its operation, and its
report."""


class MeasuredPublish:
    """Called after every publish."""

    def __init__(
        self, recorder: Recorder, publish: Callable[[], None], sequencer: Sequencer
    ) -> None:
        self._recorder = recorder
        self._publish = publish
        self._sequencer = sequencer

    def __call__(self) -> None:
        """Call the wrapped function, then measure."""
        self._publish()
        self._recorder.published(self._sequencer.durable_sequence)


class TimedHandler:
    """Calls the handler of an operation, and measures it."""

    def __init__(
        self, recorder: Recorder, name: str, handler: Handler, sequencer: Sequencer
    ) -> None:
        self.name = name
        self.durations = durations()
        recorder.operations[name] = self.durations
        self._recorder = recorder
        self._handler = handler
        self._sequencer = sequencer
        self._waits = name not in NOT_WAITING
        self._plans = name in COMMITS

    def __call__(self, session: Any, request_id: int, arguments: list[Any]) -> bytes | None:
        """Serve a request."""
        recorder = self._recorder
        began = recorder.clock()
        try:
            answer = self._handler(session, request_id, arguments)
        except Exception as error:
            self._failed(session, request_id, arguments, began, error)
            raise
        if recorder.begun_before:
            began = recorder.begun(session, request_id, began)
        if answer is None:
            if self._waits:
                sequencer = self._sequencer
                served: Served | None = None
                if recorder.tells:
                    work = sequencer.planner.work if self._plans else None
                    served = Served(recorder.clock(), session, request_id, arguments, work)
                recorder.wait((sequencer.sequence, began, self, served))
            return None
        took = recorder.clock() - began
        self.durations.add(took)
        if recorder.tells and recorder.wants(session, took):
            work = self._sequencer.planner.work if self._plans else None
            recorder.tell(self.name, Served(0, session, request_id, arguments, work), took, took)
        return answer

    def _failed(
        self, session: Any, request_id: int, arguments: list[Any], began: int, error: Exception
    ) -> None:
        recorder = self._recorder
        code = "internal_error"
        if isinstance(error, HeadwaterError):
            code = error.code
            recorder.fail(self.name, code)
        elif isinstance(error, ServeAgain):
            # The request is not done. Its session serves it again, before all others.
            recorder.note_begun(session, request_id, began)
            return
        else:
            # A disk that cannot be read fails the request; anything else ends the process.
            recorder.fail(self.name, code)
        if recorder.begun_before:
            began = recorder.begun(session, request_id, began)
        took = recorder.clock() - began
        self.durations.add(took)
        if recorder.tells and recorder.wants(session, took):
            work = self._sequencer.planner.work if self._plans else None
            served = Served(0, session, request_id, arguments, work, code)
            recorder.tell(self.name, served, took, took)
