"""The definition of an aggregate: how its state follows from its events.

    events --evolve--> state --dump--> snapshot
                         |    <--load--
                         '--command--> new events

Nothing here asks a server, so every rule can be tested with values alone.
"""

import copy
import inspect
import warnings
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Any, Final, Generic, TypeVar

from headwater.codecs.codec import Codec, decode_with, encode_with
from headwater.codecs.type_mapping import FunctionMapping, TypeMapping, has_mapping, mapping_of
from headwater.errors import InvalidArgument, StreamTruncated
from headwater.records import Event, Loaded, RecordedEvent
from headwater.transactions.writes import several
from headwater_protocol.operations import NAME, SCHEMA

State = TypeVar("State")

SNAPSHOT_EVERY_DEFAULT: Final = 100
"""Events after which a state is saved. A load reads so many in one page."""

Decider = Callable[..., Iterable[Event] | Event | None]
"""Decides the events of a command, from the state and the other arguments."""


class Definition(Generic[State]):
    """The rules of an aggregate; see Repository for the arguments."""

    def __init__(
        self,
        initial: State | Callable[[], State],
        evolve: Callable[[State, RecordedEvent], State],
        *,
        schema: int = 1,
        snapshot_every: int | None = SNAPSHOT_EVERY_DEFAULT,
        name: str = "",
        decide: Decider | None = None,
        dump: Callable[[State], Any] | None = None,
        load: Callable[[Any], State] | None = None,
        summaries: Collection[str] = (),
    ) -> None:
        SCHEMA(schema, "Repository: schema")
        if name:
            NAME(name, "Repository: name")
        if snapshot_every is not None and snapshot_every < 1:
            raise InvalidArgument(
                f"Repository: snapshot_every: {snapshot_every}; the minimum is 1, or None for never"
            )
        if (dump is None) != (load is None):
            raise InvalidArgument("Repository: give both dump= and load=, or neither")
        if isinstance(summaries, str):
            raise InvalidArgument(f"Repository: summaries: expected a list, got {summaries!r}")
        for what, function in (("evolve", evolve), ("decide", decide)):
            if function is None and what == "decide":
                continue
            if not callable(function):
                raise InvalidArgument(
                    f"Repository: {what}: expected a function, got {function!r:.60}"
                )
            if inspect.iscoroutinefunction(function):
                raise InvalidArgument(f"Repository: {what} must be a `def`, not an `async def`")
        self.evolve = evolve
        self.schema = schema
        self.snapshot_every = snapshot_every
        self.name = name
        self.decider = decide
        self.summaries = frozenset(summaries)
        self._initial = initial
        self._mapping: TypeMapping | None = None
        if dump is not None and load is not None:
            self._mapping = FunctionMapping(dump, load)
        elif has_mapping(type(self.initial())):
            self._mapping = mapping_of(type(self.initial()))

    def initial(self) -> State:
        """A new state before the first event, which is not shared."""
        if callable(self._initial):
            made: State = self._initial()
            return made
        return copy.deepcopy(self._initial)

    def replay(self, state: State, events: Iterable[RecordedEvent]) -> State:
        """The state after some more events.

        If evolve fails at an event whose data was erased, a note on the exception says so.
        """
        evolve = self.evolve
        for event in events:
            try:
                state = evolve(state, event)
            except Exception as error:
                if event.erased:
                    error.add_note(
                        f"event {event.version} of {event.stream} ({event.type}) was erased: its "
                        "data is None, and event.erased is true; evolve must handle that"
                    )
                raise
        return state

    def is_summary(self, event: RecordedEvent) -> bool:
        """Whether a state can be built from this event on, without those before it."""
        return event.type in self.summaries and not event.erased

    def needed(self, stream: str, loaded: Loaded) -> Sequence[RecordedEvent]:
        """The events to replay, from a snapshot or from the initial state.

        Raises:
            StreamTruncated: some of them are hidden.
        """
        events = loaded.events
        if loaded.is_whole:
            return events
        for place, event in enumerate(events):
            if self.is_summary(event) and len(events) - place == loaded.version - event.version + 1:
                return events[place:]
        first = events[0].version if events else loaded.version + 1
        there = f"are visible from version {first} on" if events else "are all hidden"
        raise StreamTruncated(
            f"stream {stream!r} was truncated: it begins at version {loaded.begins}, its events "
            f"{there}, and no snapshot {f'{self.name!r} ' if self.name else ''}of schema "
            f"{self.schema} covers those before. Load it with the schema that has a snapshot, "
            f"and save that state with schema {self.schema}; or delete the stream to start "
            "again",
            details={
                "stream": stream,
                "version": loaded.version,
                "first": first,
                "begins": loaded.begins,
            },
        )

    def decided(self, state: State, command: Any, arguments: tuple[Any, ...]) -> tuple[Event, ...]:
        """The events that a command decides.

        Raises:
            InvalidArgument: the command cannot be called, or its result is not events.
        """
        if self.decider is not None:
            events = self.decider(state, command, *arguments)
        elif callable(command):
            events = command(state, *arguments)
        else:
            raise InvalidArgument(
                f"decide: {command!r:.60} is not a function; for commands that are data, give the "
                "Repository a decide="
            )
        if inspect.iscoroutine(events):
            events.close()
            raise InvalidArgument("decide: a command must be a `def`, not an `async def`")
        return () if events is None else tuple(several(events, "decide"))

    def dump_state(self, state: State) -> Any:
        """The state as plain data."""
        return state if self._mapping is None else self._mapping.dump(state)

    def load_state(self, data: Any) -> State:
        """The state of which dump_state made *data*. Raises any exception if it does not fit."""
        state: State = data if self._mapping is None else self._mapping.load(data)
        return state

    def snapshot_of(self, state: State, codec: Codec, stream: str) -> Any:
        """The state as a snapshot stores it. None if it would be decoded as another state."""
        try:
            data = self.dump_state(state)
            stored = decode_with(codec, encode_with(codec, data, "state"), "state")
            if stored == data and self.load_state(stored) == state:
                return stored
            reason = "it would be decoded as another state"
        except Exception as error:
            reason = f"{type(error).__name__}: {error}"
        warnings.warn(
            f"the state of {stream} cannot be stored in a snapshot: {reason}; every load replays "
            "its events",
            RuntimeWarning,
            stacklevel=2,
        )
        return None
