"""Blocking calls without threads: other tasks run in the middle of them.

The server syncs commits and writes checkpoints in threads, while it keeps reading. In a world such
a call runs in a greenlet. At each disk call the greenlet may pause: the task that awaits it sleeps
for as long as the disk takes, and other tasks run meanwhile. So calls interleave as in production,
at each disk call, and the seed decides how.

    task      await run_blocking(call) ... sleeps ........... continues with the result
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
"""Seconds between two attempts to acquire a lock."""


class _Call(greenlet.greenlet):
    """A blocking call in progress."""


async def run_blocking(call: Callable[[], T], /) -> T:
    """Run *call*, and sleep where it pauses. Like a thread, it cannot be cancelled."""
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
    """Whether the caller is a blocking call, not the event loop."""
    return isinstance(greenlet.getcurrent(), _Call)


def pause(seconds: float) -> None:
    """Take some time. Other tasks run meanwhile, unless the event loop itself calls this."""
    current = greenlet.getcurrent()
    if isinstance(current, _Call):
        assert current.parent is not None
        current.parent.switch(seconds)
    elif trio.lowlevel.in_trio_run():
        block_for(seconds)


def block_for(seconds: float) -> None:
    """Block the event loop: the clock of the world advances, and no other task runs."""
    clock = trio.lowlevel.current_clock()
    if isinstance(clock, trio.testing.MockClock):
        clock.jump(seconds)


class CooperativeLock:
    """A lock between blocking calls. A call that has to wait pauses."""

    def __init__(self) -> None:
        self._held = False

    def __enter__(self) -> None:
        while self._held:
            pause(_SPIN_S)
        self._held = True

    def __exit__(self, *_: object) -> None:
        self._held = False
