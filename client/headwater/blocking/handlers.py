"""Functions of the application, called with blocking objects.

The asynchronous face calls a function of `run`, and a handler of a projection, with a transaction
of its own kind, and awaits the result. These adapters give it a coroutine that does not wait.
"""

import inspect
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar, TypeVarTuple

from headwater.blocking.models import BlockingModel
from headwater.blocking.transaction import BlockingTransaction
from headwater.errors import InvalidArgument
from headwater.projections.follower import Handler
from headwater.projections.projections import check_handler
from headwater.projections.state import ProjectionTransaction
from headwater.records import RecordedEvent
from headwater.transactions.transaction import Transaction
from headwater.transport.stepping import step

T = TypeVar("T")
Ts = TypeVarTuple("Ts")
F = TypeVar("F", bound=Callable[..., Any])


class BlockingProjectionTransaction(BlockingTransaction):
    """A transaction in which a handler runs.

    Attributes:
        name: of the projection.
        build: the number of the build that the handler works for.
        model: the read model of that build.
    """

    def __init__(self, core: ProjectionTransaction) -> None:
        super().__init__(core)
        self.name = core.name
        self.build = core.build
        self.model = BlockingModel(core.model)
        self._projecting = core

    def seen_before(self, event: RecordedEvent) -> bool:
        """Whether another build of the projection has dealt with an event.

        So a rebuild can leave out what a handler does beside its model.
        """
        return step(self._projecting.seen_before(event))


def in_blocking_transaction(
    function: Callable[[BlockingTransaction, *Ts], T],
) -> Callable[[Transaction, *Ts], Awaitable[T]]:
    """A function of the blocking face, as `run` of the asynchronous face calls it."""

    async def call(transaction: Transaction, *arguments: *Ts) -> T:
        result = function(BlockingTransaction(transaction), *arguments)
        if inspect.iscoroutine(result):
            result.close()
            raise InvalidArgument(
                f"run: {function!r:.80} is an `async def`; a blocking database wants a `def`"
            )
        return result

    return call


def stepped_handler(handler: Callable[..., None]) -> Handler:
    """A handler of the blocking face, as the asynchronous face calls it."""

    async def handle(tx: ProjectionTransaction, given: Any) -> None:
        handler(BlockingProjectionTransaction(tx), given)

    return handle


def stepped_effects(name: str, effects: Callable[..., None]) -> Handler:
    """The effects of a projection, as the asynchronous face calls them."""
    check_handler(name, effects, waits=False)
    return stepped_handler(effects)


def with_blocking_handler(name: str, define: Callable[[Handler], Any]) -> Callable[[F], F]:
    """A decorator that defines a projection whose handler is a plain function."""

    def decorate(handler: F) -> F:
        check_handler(name, handler, waits=False)
        define(stepped_handler(handler))
        return handler

    return decorate
