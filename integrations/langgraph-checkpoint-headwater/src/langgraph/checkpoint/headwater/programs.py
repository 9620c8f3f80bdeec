"""One logic for two faces: a program yields what it asks of a database and is sent the answers.

`drive` performs a program on a blocking database or transaction, `adrive` on one of asyncio or
trio. An error of the database is raised in the program, at the step that it belongs to.
"""

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import headwater

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Call:
    """Call a method of the database: `get`, `execute`, and so on. The answer is its result."""

    name: str
    arguments: Sequence[Any]


@dataclass(frozen=True, slots=True)
class Scan:
    """Read a range of keys. The answer is a list of (key, value)."""

    prefix: tuple[Any, ...] | None = None
    start: tuple[Any, ...] | None = None
    end: tuple[Any, ...] | None = None
    reverse: bool = False
    limit: int | None = None

    def options(self) -> dict[str, Any]:
        """The arguments of `scan`."""
        given = {"start": self.start, "end": self.end, "reverse": self.reverse, "limit": self.limit}
        return {name: value for name, value in given.items() if value is not None}


@dataclass(frozen=True, slots=True)
class Run:
    """Run a program in a transaction, again after a conflict. The answer is its result."""

    body: Callable[[Any], "Program[Any]"]


Step = Call | Scan | Run
Program = Generator[Step, Any, T]


def get(key: tuple[Any, ...]) -> Call:
    """Read one key."""
    return Call("get", (key,))


def execute(batch: headwater.Batch) -> Call:
    """Execute a batch as one transaction."""
    return Call("execute", (batch,))


def drive(database: Any, program: Program[T]) -> T:
    """Perform a program on a blocking database or transaction."""
    try:
        step = next(program)
        while True:
            try:
                answer = _perform(database, step)
            except headwater.HeadwaterError as error:
                step = program.throw(error)
            else:
                step = program.send(answer)
    except StopIteration as end:
        result: T = end.value
        return result


def _perform(database: Any, step: Step) -> Any:
    match step:
        case Call(name, arguments):
            return getattr(database, name)(*arguments)
        case Scan(prefix):
            return list(database.scan(prefix, **step.options()))
        case Run(body):
            return database.run(lambda transaction: drive(transaction, body(transaction)))


async def adrive(database: Any, program: Program[T]) -> T:
    """Perform a program on a database or transaction of an event loop."""
    try:
        step = next(program)
        while True:
            try:
                answer = await _aperform(database, step)
            except headwater.HeadwaterError as error:
                step = program.throw(error)
            else:
                step = program.send(answer)
    except StopIteration as end:
        result: T = end.value
        return result


async def _aperform(database: Any, step: Step) -> Any:
    match step:
        case Call(name, arguments):
            return await getattr(database, name)(*arguments)
        case Scan(prefix):
            return [row async for row in database.scan(prefix, **step.options())]
        case Run(body):

            async def in_transaction(transaction: Any) -> Any:
                return await adrive(transaction, body(transaction))

            return await database.run(in_transaction)
