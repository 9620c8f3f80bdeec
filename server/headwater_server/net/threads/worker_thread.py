"""A worker thread for blocking calls, with little overhead.

`trio.to_thread` is general: it has a limiter, context variables and a pool of threads. Commit
groups need a thread thousands of times a second, always from one task. So here one thread waits on
a queue, and its result reschedules the calling task. A blocking call must release the interpreter
lock, as file calls do; then the event loop answers reads while a sync runs.

`RunBlocking` is the interface. Simulation has no threads and passes `run_inline`.
"""

import threading
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any, Protocol, TypeVar

import outcome
import trio

T = TypeVar("T")


class RunBlocking(Protocol):
    """Runs a blocking call, and returns or raises what it does."""

    async def __call__(self, call: Callable[[], T], /) -> T:
        """Run *call*; a cancellation has to wait until it is done."""
        ...


async def run_inline(call: Callable[[], T], /) -> T:
    """Run *call* in the current thread, for simulation and tests."""
    await trio.lowlevel.checkpoint()
    return call()


async def run_abandonable(call: Callable[[], T], /) -> T:
    """Run *call* in a thread; a cancellation leaves the thread alone with it.

    For a disk that may hang, where nobody needs to know whether the call took place.
    """
    return await trio.to_thread.run_sync(call, abandon_on_cancel=True)


class WorkerThread:
    """One thread that runs one call after another. Call it from one task at a time."""

    def __init__(self, name: str) -> None:
        self._calls: SimpleQueue[tuple[Callable[[], Any], trio.lowlevel.Task] | None]
        self._calls = SimpleQueue()
        self._token = trio.lowlevel.current_trio_token()
        # A daemon: after a fatal error the process must not wait for a disk that hangs.
        self._thread = threading.Thread(target=self._serve, name=name, daemon=True)
        self._thread.start()

    async def run(self, call: Callable[[], T], /) -> T:
        """Run *call* in the thread; return or raise what it does.

        It cannot be cancelled: the caller must know whether the call took place.
        """
        self._calls.put((call, trio.lowlevel.current_task()))
        result: T = await trio.lowlevel.wait_task_rescheduled(_cannot_abort)
        return result

    def close(self) -> None:
        """Let the thread end after its current call."""
        self._calls.put(None)

    def _serve(self) -> None:
        while (work := self._calls.get()) is not None:
            call, task = work
            result = outcome.capture(call)
            try:
                self._token.run_sync_soon(trio.lowlevel.reschedule, task, result)
            except trio.RunFinishedError:
                return
            # Drop the result before the next call: it may hold a whole group in memory.
            del work, call, task, result


def _cannot_abort(_: object) -> trio.lowlevel.Abort:
    return trio.lowlevel.Abort.FAILED
