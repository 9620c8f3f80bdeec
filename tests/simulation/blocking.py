"""Calls that block, without threads: others go on in the middle of them.

The server makes commits durable and writes checkpoints in threads, while it goes on reading.
Here such a call runs in a greenlet. Where it comes to the disk, it may pause: then control goes
back to the task that awaits it, which sleeps for as long as the disk takes, and all other tasks
run meanwhile. So what is interleaved in production is interleaved here, at each call to the
disk, and it is the seed that decides how.

    task      await run_blocking(call) ... sleeps ........... goes on with the result
    greenlet                          call | pause |  ... | return
"""

from collections.abc import Callable
from typing import Any, Final, TypeVar

import greenlet
import outcome
import trio
import trio.testing

T = TypeVar("T")

_SPIN_S: Final = 0.0001
"""Seconds between two looks at a lock that is held."""


class _Call(greenlet.greenlet):
    """A blocking call under way."""


async def run_blocking(call: Callable[[], T], /) -> T:
    """Run *call*, sleeping where it pauses. It cannot be cancelled, as in a thread."""
    await trio.lowlevel.checkpoint()
    running = _Call(outcome.capture)
    found: Any = running.switch(call)
    while not running.dead:
        with trio.CancelScope(shield=True):
            await trio.sleep(found)
        found = running.switch()
    result: T = found.unwrap()
    return result


def in_blocking_call() -> bool:
    """Whether a blocking call asks, and not the event loop."""
    return isinstance(greenlet.getcurrent(), _Call)


def pause(seconds: float) -> None:
    """Take so long. The world goes on meanwhile, unless the event loop itself makes the call."""
    current = greenlet.getcurrent()
    if isinstance(current, _Call):
        assert current.parent is not None
        current.parent.switch(seconds)
    elif trio.lowlevel.in_trio_run():
        block_for(seconds)


def block_for(seconds: float) -> None:
    """Block the event loop: the clock of the world goes on, and nobody runs meanwhile."""
    clock = trio.lowlevel.current_clock()
    if isinstance(clock, trio.testing.MockClock):
        clock.jump(seconds)


class CooperativeLock:
    """A lock between blocking calls. Who has to wait pauses, and does not block the process."""

    def __init__(self) -> None:
        self._held = False

    def __enter__(self) -> None:
        while self._held:
            pause(_SPIN_S)
        self._held = True

    def __exit__(self, *_: object) -> None:
        self._held = False
