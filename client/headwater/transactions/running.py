"""Running a function in a transaction until it has happened exactly once.

    run it, commit --ok--------------------------> its result
          |  '----retryable error--> pause --> again, in a new transaction
          '----no answer--> status(id, resolve)
                              committed ---------> its result
                              aborted -----------> again
                              forgotten, or no server in time --> CommitUnknown

Resolving fences: once the server said "aborted", the commit that was on its way can never take
effect, so beginning again cannot do the work twice.
"""

from collections.abc import Awaitable, Callable
from inspect import isawaitable
from typing import Any, Final, TypeVar

from headwater.errors import CommitUnknown, HeadwaterError, InvalidArgument
from headwater.records import committed_from
from headwater.transactions.transaction import Transaction
from headwater.transport.backoff import Backoff
from headwater.transport.channel import Channel

PAUSE_FIRST: Final = 0.002
"""Seconds after a first conflict: about the time that a transaction takes."""

PAUSE_MAX: Final = 1.0
"""Seconds between attempts at most."""

T = TypeVar("T")


async def run(
    channel: Channel,
    begin: Callable[[], Transaction],
    function: Callable[..., Awaitable[T]],
    arguments: tuple[Any, ...],
    *,
    attempts: int | None,
    deadline: float | None,
) -> T:
    """The result of *function*, called with a transaction of *begin*, once that has committed.

    Raises:
        CommitUnknown: it may have happened; nobody could be asked before the deadline.
        HeadwaterError: one that another attempt cannot mend, or the last attempt's.
    """
    if attempts is not None and attempts < 1:
        raise InvalidArgument(f"run: attempts: {attempts}; at least 1 is needed")
    runtime = channel.runtime
    until = runtime.now() + (channel.options.retry_timeout if deadline is None else deadline)
    backoff = Backoff(PAUSE_FIRST, PAUSE_MAX)
    attempt = 0
    while True:
        attempt += 1
        transaction = begin()
        try:
            async with transaction:
                awaited = function(transaction, *arguments)
                if not isawaitable(awaited):
                    # Inside of the block, so that nothing of it is committed.
                    raise InvalidArgument(
                        f"run: {function!r:.80} returned {type(awaited).__name__!r}, which cannot "
                        "be awaited; an `async def` is wanted"
                    )
                result = await awaited
            return result  # noqa: RET504 - where the commit is unknown, it is still wanted
        except CommitUnknown as error:
            if error.details.get("transaction") != transaction.id.bytes:
                raise  # Of another transaction, inside of this one.
            if await _settle(channel, transaction, error, until):
                return result
            last: BaseException = error
        except (HeadwaterError, BaseExceptionGroup) as error:
            if not can_be_mended(error):
                raise
            last = error
        pause = backoff.next()
        if attempt == attempts or runtime.now() + pause >= until:
            raise last
        await runtime.sleep(pause)


def can_be_mended(error: BaseException) -> bool:
    """Whether another attempt can succeed; of a group, whether it can for all of its errors."""
    if isinstance(error, BaseExceptionGroup):
        return all(can_be_mended(inner) for inner in error.exceptions)
    return isinstance(error, HeadwaterError) and error.retryable


async def _settle(
    channel: Channel, transaction: Transaction, unknown: CommitUnknown, until: float
) -> bool:
    """Whether the transaction committed; if not, it never will.

    Raises:
        CommitUnknown: no answer before *until*, or the server does not remember.
    """
    runtime = channel.runtime
    backoff = Backoff(PAUSE_FIRST, PAUSE_MAX)
    while True:
        try:
            connection = await channel.connection()
            state, committed = await connection.ask("status", unknown.transaction, True)
        except HeadwaterError as error:
            # Retryable is also a server that is read-only for now, and so cannot fence.
            pause = backoff.next()
            if not error.retryable or runtime.now() + pause >= until:
                raise unknown from error
            await runtime.sleep(pause)
            continue
        if state == "committed":
            transaction.settle(committed_from(committed))
            return True
        if state == "aborted":
            return False
        raise unknown
