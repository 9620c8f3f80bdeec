"""Aggregates without a database: given(events).when(command).then(events).

    given(accounts, Event("Opened", {}), Event("Deposited", {"amount": 10}))
        .when(withdraw, 4)
        .then(Event("Withdrawn", {"amount": 4}))

Events go through the codec, as those of a database do: what a database would change (a tuple
becomes a list) or refuse is changed or refused here.
"""

from collections.abc import Iterable
from typing import Any, Final, Generic, TypeVar
from uuid import UUID

from headwater.aggregates.definition import Definition
from headwater.codecs.codec import Codec, MsgpackCodec
from headwater.codecs.events import event_views
from headwater.records import Event
from headwater.transactions.batch import Batch

State = TypeVar("State")

STREAM: Final = "test-1"
TIME_US: Final = 946_684_800_000_000
"""The time of the events, in microseconds since 1970: the year 2000 and a little more."""


class ScenarioFailed(AssertionError):
    """The command decided something else, or the state is another."""


class Scenario(Generic[State]):
    """Past events of an aggregate, and what a command decided on them. Made by `given`.

    Attributes:
        state: the state after all events, the decided ones included.
        events: the events that the last command decided.
        error: the exception that the last command raised.
    """

    def __init__(
        self, repository: Definition[State], events: Iterable[Event], codec: Codec | None
    ) -> None:
        self._repository = repository
        self._codec = codec or MsgpackCodec()
        self._version = 0
        self.state = repository.initial()
        self.events: tuple[Event, ...] = ()
        self.error: Exception | None = None
        self._add(tuple(events))

    def when(self, command: Any, *arguments: Any) -> "Scenario[State]":
        """Let the aggregate decide. Commands are what the repository's `decide` takes."""
        self.events, self.error = (), None
        try:
            self.events = self._repository.decided(self.state, command, arguments)
        except Exception as error:
            self.error = error
        else:
            self._add(self.events)
        return self

    def then(self, *expected: Event) -> "Scenario[State]":
        """Check that exactly these events were decided: their types, data, metadata and tags.

        Raises:
            ScenarioFailed: there were others, or the command raised an exception.
        """
        if self.error is not None:
            raise ScenarioFailed(f"the command raised {self.error!r}") from self.error
        wanted, decided = ([_shown(event) for event in each] for each in (expected, self.events))
        if wanted != decided:
            raise ScenarioFailed(f"expected {wanted}, decided {decided}")
        return self

    def then_raises(self, kind: type[Exception], text: str = "") -> "Scenario[State]":
        """Check that the command raised this exception, with this text in its message.

        Raises:
            ScenarioFailed: it raised another one, or none.
        """
        if not isinstance(self.error, kind) or text not in str(self.error):
            did = repr(self.error) if self.error else f"decided {list(map(_shown, self.events))}"
            raise ScenarioFailed(f"expected {kind.__name__} {text!r}, but the command {did}")
        return self

    def then_state(self, expected: State) -> "Scenario[State]":
        """Check the state after all events.

        Raises:
            ScenarioFailed: it is another.
        """
        if self.state != expected:
            raise ScenarioFailed(f"expected the state {expected!r}, got {self.state!r}")
        return self

    def _add(self, events: tuple[Event, ...]) -> None:
        if not events:
            return
        # As an append encodes them, with all its checks.
        batch = Batch(self._codec)
        batch.append(STREAM, events)
        _, _, [[_, _, _, encoded, *_]] = batch.request()
        view = event_views(self._codec)
        self.state = self._repository.replay(
            self.state, [view(self._row(members)) for members in encoded]
        )

    def _row(self, members: list[Any]) -> tuple[Any, ...]:
        identity, kind, data, metadata, *tags = members
        self._version += 1
        number = self._version
        return (
            *(number, STREAM, number, number, TIME_US + number),
            identity or UUID(int=number).bytes,
            *(kind, data, metadata, tags[0] if tags else []),
        )


def given(
    repository: Definition[State], *events: Event, codec: Codec | None = None
) -> Scenario[State]:
    """Begin a scenario with past events.

    Args:
        repository: a headwater.Repository.
        events: what has happened before.
        codec: of the application; the default is MsgpackCodec.
    """
    return Scenario(repository, events, codec)


def _shown(event: Event) -> tuple[Any, ...]:
    return (event.type, event.data, event.metadata, tuple(sorted(event.tags)))
