"""A thread of one's own for calls that block, with a short way there and back.

`trio.to_thread` is general: a limiter, context variables, a pool of threads. A commit group
makes the way thousands of times a second, always from one task, so here one thread waits on a
queue, and its result reschedules the task that asked. What blocks must let go of the
interpreter lock, as file calls do; then reads are answered while a sync runs.

`RunBlocking` is the seam: simulation, where there are no threads, gives `run_inline` instead.
"""

import threading
from collections.abc import Callable
from math import inf
from queue import SimpleQueue
from typing import Any, Final, Protocol, TypeVar

import outcome
import trio

T = TypeVar("T")

QUICK_CALL_S_MAX: Final = 0.001
"""Seconds of a call, on average, for which all others may have to wait. Serving the requests of
one wake-up takes as long."""

CALLS_AVERAGED: Final = 32
"""Calls over which the average goes: each new one counts for one part in so many. And as many
are made in the thread until the disk is trusted, or trusted again."""

CALLS_IN_THREAD_MAX: Final = 4096
"""Calls in the thread after which a disk is tried again that lost the trust soon, ever again."""


class RunBlocking(Protocol):
    """Runs a call that blocks, and awaits what it returns or raises."""

    async def __call__(self, call: Callable[[], T], /) -> T:
        """Await *call*; a cancellation has to wait until it is done."""
        ...


async def run_inline(call: Callable[[], T], /) -> T:
    """Run *call* here and now: for simulation and tests."""
    await trio.lowlevel.checkpoint()
    return call()


class WorkerThread:
    """One thread that runs one call after another. Call it from one task at a time."""

    def __init__(self, name: str) -> None:
        self._calls: SimpleQueue[tuple[Callable[[], Any], trio.lowlevel.Task] | None]
        self._calls = SimpleQueue()
        self._token = trio.lowlevel.current_trio_token()
        # A daemon: after a fatal error nobody waits for a disk that may never answer.
        self._thread = threading.Thread(target=self._serve, name=name, daemon=True)
        self._thread.start()

    async def run(self, call: Callable[[], T], /) -> T:
        """Run *call* in the thread; return or raise what it does.

        It cannot be cancelled: whether the call took place must be known.
        """
        self._calls.put((call, trio.lowlevel.current_task()))
        result: T = await trio.lowlevel.wait_task_rescheduled(_cannot_abort)
        return result

    def close(self) -> None:
        """Let the thread end after the call that it is in."""
        self._calls.put(None)

    def _serve(self) -> None:
        while (work := self._calls.get()) is not None:
            call, task = work
            result = outcome.capture(call)
            try:
                self._token.run_sync_soon(trio.lowlevel.reschedule, task, result)
            except trio.RunFinishedError:
                return
            # A result must not stay alive until the next call: it may hold a whole group.
            del work, call, task, result


class Trust:
    """Whether calls that block are so quick that they may be made in the event loop itself.

    The way to a thread and back takes longer than the sync of a fast disk, and everybody waits
    for the interpreter twice meanwhile. On a slow disk nobody else must wait. So calls are trusted
    to be quick while they are quick on average; a call of 32 ms or more ends the trust at once,
    so that others wait for one slow call, and the next many go to the thread.

    A call in the thread seems as long as the thread waits for the interpreter at its end, however
    quick the disk. So there the quickest of many says what the disk can do, and not the average,
    by which a disk would never be trusted again. If that was wrong, the next look comes later.
    """

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self._monotonic = monotonic
        self._trusted = False
        self._average_s = 0.0
        self._least_s = inf
        self._calls = 0
        self._calls_in_thread = CALLS_AVERAGED

    def __bool__(self) -> bool:
        return self._trusted

    def watch(self, call: Callable[[], T]) -> T:
        """Make the call, wherever this is, and see how long it takes."""
        began = self._monotonic()
        try:
            return call()
        finally:
            self._note(self._monotonic() - began)

    def _note(self, took_s: float) -> None:
        self._calls += 1
        if self._trusted:
            self._average_s += (took_s - self._average_s) / CALLS_AVERAGED
            if self._average_s > QUICK_CALL_S_MAX:
                self._trusted = False
                soon = self._calls < self._calls_in_thread
                longer = min(2 * self._calls_in_thread, CALLS_IN_THREAD_MAX)
                self._calls_in_thread = longer if soon else CALLS_AVERAGED
                self._calls = 0
            return
        self._least_s = min(self._least_s, took_s)
        if self._calls >= self._calls_in_thread:
            self._trusted = self._least_s <= QUICK_CALL_S_MAX
            self._average_s, self._least_s = self._least_s, inf
            self._calls = 0


def _cannot_abort(_: object) -> trio.lowlevel.Abort:
    return trio.lowlevel.Abort.FAILED
