"""Runs coroutines that never suspend. With it the blocking face uses the asynchronous code.

A coroutine of the client waits in one place only, Connection._park. On a plain socket _park blocks
in `recv` and then returns, so the coroutine never suspends and its first step is also its last:

    step(database.get(key))     # runs it to its end; 0.2 us more than a plain call
"""

from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


def step(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run *coroutine* to its end and return its result."""
    try:
        coroutine.send(None)
    except StopIteration as stop:
        result: T = stop.value
        return result
    coroutine.close()
    raise AssertionError(f"{coroutine!r} suspended, but without an event loop nothing wakes it")
