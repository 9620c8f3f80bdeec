"""A thread of one's own for calls that block, with a short way there and back.

`trio.to_thread` is general: a limiter, context variables, a pool of threads. A commit group
makes the way thousands of times a second, always from one task, so here one thread waits on a
queue, and its result reschedules the task that asked. What blocks must let go of the
interpreter lock, as file calls do; then reads are answered while a sync runs.

`RunBlocking` is the seam: simulation, where there are no threads, gives `run_inline` instead.
"""

import threading
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any, Protocol, TypeVar

import outcome
import trio

T = TypeVar("T")


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


def _cannot_abort(_: object) -> trio.lowlevel.Abort:
    return trio.lowlevel.Abort.FAILED
