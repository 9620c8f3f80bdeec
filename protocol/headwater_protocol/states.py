"""The states of a connection and the requests allowed in each: one table for both ends.

    state             requested         answered                            then
    HELLO             hello             -                                   GREETING
    GREETING          -                 no mechanisms                       READY
                                        mechanisms                          AUTHENTICATION
                                        an error                            HELLO
    AUTHENTICATION    authenticate      -                                   AUTHENTICATING
    AUTHENTICATING    -                 done                                READY
                                        not done, or an error               AUTHENTICATION
    READY             all the others    in any order                        READY
    any               a request that violates the protocol                  CLOSED

A client must wait for the answer to hello or authenticate, because the answer decides what it may
send next. In READY it may send any number of requests without waiting.
"""

from enum import Enum, auto
from typing import Any, Final

from headwater_protocol.errors import ProtocolError
from headwater_protocol.operations import ERROR, OPERATIONS


class Role(Enum):
    """Which end of the connection this is."""

    CLIENT = auto()
    SERVER = auto()


class State(Enum):
    """The state of a connection. Both ends go through the same states."""

    HELLO = auto()
    GREETING = auto()
    AUTHENTICATION = auto()
    AUTHENTICATING = auto()
    READY = auto()
    CLOSED = auto()


class Verdict(Enum):
    """Whether a state allows an operation. A violation ends the connection."""

    ACCEPTED = auto()
    REFUSED = auto()
    VIOLATION = auto()


_WORK: Final = frozenset(OPERATIONS) - {"hello", "authenticate"}

ACCEPTED: Final[dict[State, frozenset[str]]] = {
    State.HELLO: frozenset({"hello"}),
    State.GREETING: frozenset(),
    State.AUTHENTICATION: frozenset({"authenticate"}),
    State.AUTHENTICATING: frozenset(),
    State.READY: _WORK,
    State.CLOSED: frozenset(),
}
"""The operations that each state accepts. ping needs authentication too, because its answer
contains the newest commit number."""

REQUESTED: Final = {"hello": State.GREETING, "authenticate": State.AUTHENTICATING}
"""The operations whose request changes the state, with the new state."""


def verdict(state: State, operation: str) -> Verdict:
    """Whether *state* allows a request of *operation*."""
    if operation in ACCEPTED[state]:
        return Verdict.ACCEPTED
    # A request before authentication and an unknown operation are only refused. A second hello, or
    # a request while the client must wait, means that the client is out of step: a violation.
    if state in (State.AUTHENTICATION, State.READY) and operation not in REQUESTED:
        return Verdict.REFUSED
    return Verdict.VIOLATION


def after_answer(state: State, status: int, payload: Any) -> State:
    """The state after the answer to hello (in GREETING) or authenticate (in AUTHENTICATING).

    Raises:
        ProtocolError: the payload does not have the form of that answer.
    """
    assert state in (State.GREETING, State.AUTHENTICATING), f"no answer is expected in {state}"
    if status == ERROR:
        return State.HELLO if state is State.GREETING else State.AUTHENTICATION
    match state, payload:
        case State.GREETING, [int(), str(), list(), list(mechanisms), bytes(), *_]:
            return State.AUTHENTICATION if mechanisms else State.READY
        case State.AUTHENTICATING, [bool(done), bytes()]:
            return State.READY if done else State.AUTHENTICATION
        case _:
            raise ProtocolError(f"the answer in state {state.name} has a wrong form")
