"""`run`: repeats a function in a transaction until it has committed exactly once.

    run it, commit --ok--------------------------> its result
          |  '----conflict----> wait in line --> again, in a new transaction
          |  '----other retryable error--> pause --> again
          '----no answer--> status(id, resolve)
                              committed ---------> its result
                              aborted -----------> again
                              forgotten, or no server in time --> CommitUnknown

Resolving is a fence: once the server has answered "aborted", a commit that is still on its way can
never take effect. So a new attempt cannot do the work twice.

After a conflict, the attempts of this client that use the same key or stream take turns (turns.py).
An attempt that conflicts although it had its turn lost to another client, and pauses.
"""

import itertools
from collections.abc import Awaitable, Callable
from inspect import isawaitable
from typing import Any, Final, TypeVar

from headwater.errors import (
    CommitUnknown,
    Conflict,
    HeadwaterError,
    InvalidArgument,
    TransactionAborted,
)
from headwater.records import committed_from
from headwater.transactions.transaction import Transaction
from headwater.transport.backoff import Backoff
from headwater.transport.channel import Channel, note_unknown
from headwater.transport.turns import NAMES_MAX, Name, Turn

PAUSE_FIRST: Final = 0.002
"""Seconds to wait after the first conflict: about as long as a transaction takes."""

PAUSE_MAX: Final = 1.0
"""The longest pause between attempts, in seconds."""

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
    """Call *function* with a transaction of *begin*, commit, and return its result.

    Raises:
        CommitUnknown: the commit may have happened. No server answered before the deadline.
        HeadwaterError: an error that another attempt cannot cure, or that of the last attempt.
    """
    if attempts is not None and attempts < 1:
        raise InvalidArgument(f"run: attempts: {attempts}; the minimum is 1")
    runtime = channel.runtime
    until = runtime.now() + (channel.options.retry_timeout if deadline is None else deadline)
    backoff = Backoff(PAUSE_FIRST, PAUSE_MAX)
    contended: set[Name] = set()
    attempt = 0
    while True:
        attempt += 1
        transaction = begin()
        turn = Turn(channel.turns)
        transaction.prepare(until, turn)
        try:
            await turn.enter(contended)
            async with transaction:
                awaited = function(transaction, *arguments)
                if not isawaitable(awaited):
                    # Raised inside of the block, so that nothing is committed.
                    raise InvalidArgument(
                        f"run: {function!r:.80} returned {type(awaited).__name__!r}, which cannot "
                        "be awaited; the function must be an `async def`"
                    )
                result = await awaited
            return result  # noqa: RET504 - it is also needed if the commit is unknown
        except CommitUnknown as error:
            if error.details.get("transaction") != transaction.id.bytes:
                raise  # It concerns another transaction, which the function ran inside of this.
            if await _settle(channel, transaction, error, until):
                return result
            # It never will: the server has fenced it.
            last: BaseException = TransactionAborted(
                f"transaction {transaction.id} did not commit: its request was lost on its way",
                details={"transaction": transaction.id.bytes},
            )
            last.__cause__ = error
        except (HeadwaterError, BaseExceptionGroup) as error:
            if not can_be_retried(error):
                raise
            last = error
        finally:
            turn.leave()
        found = names_of(last) - contended
        pause = 0.0 if found else backoff.next()
        if attempt == attempts or runtime.now() + pause >= until:
            raise last
        if found:
            contended |= found
        else:
            await runtime.sleep(pause)


def names_of(error: BaseException) -> set[Name]:
    """The keys and streams that an error says were changed by others, up to NAMES_MAX."""
    if not isinstance(error, Conflict):
        return set()
    named = (conflict.get("key") or conflict.get("stream") for conflict in error.conflicts)
    return {name for name in itertools.islice(named, NAMES_MAX) if isinstance(name, bytes | str)}


def can_be_retried(error: BaseException) -> bool:
    """Whether another attempt can succeed. For a group: whether that is true of all its errors."""
    if isinstance(error, BaseExceptionGroup):
        return all(can_be_retried(inner) for inner in error.exceptions)
    return isinstance(error, HeadwaterError) and error.retryable


async def _settle(
    channel: Channel, transaction: Transaction, unknown: CommitUnknown, until: float
) -> bool:
    """Whether the transaction has committed. If not, it never will.

    Raises:
        CommitUnknown: no server answered before *until*, or the server has forgotten the id.
    """
    try:
        return await _resolve(channel, transaction, unknown, until)
    except HeadwaterError:
        raise
    except BaseException as error:
        # A cancellation, or an exception that a signal handler raised.
        note_unknown(error, unknown.transaction)
        raise


async def _resolve(
    channel: Channel, transaction: Transaction, unknown: CommitUnknown, until: float
) -> bool:
    """Ask for the status until a server answers."""
    runtime = channel.runtime
    backoff = Backoff(PAUSE_FIRST, PAUSE_MAX)
    while True:
        try:
            connection = await channel.connection(until)
            state, committed = await connection.ask("status", unknown.transaction, True)
        except HeadwaterError as error:
            # A server that is read-only for now cannot fence; its error is retryable, too.
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
