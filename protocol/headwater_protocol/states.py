"""The states of a connection, and what may be said in each: one table for both ends.

    state             requested         answered                            then
    HELLO             hello             -                                   GREETING
    GREETING          -                 no mechanisms                       READY
                                        mechanisms                          AUTHENTICATION
                                        an error                            HELLO
    AUTHENTICATION    authenticate      -                                   AUTHENTICATING
    AUTHENTICATING    -                 done                                READY
                                        not done, or an error               AUTHENTICATION
    READY             all the others    in any order                        READY
    any               what is not allowed, and is no mere refusal           CLOSED

While hello or authenticate waits for its answer, the client sends nothing: what the next bytes
may be depends on that answer. In READY it sends as many requests as it likes.
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
    """How far the conversation is. Both ends go through the same states."""

    HELLO = auto()
    GREETING = auto()
    AUTHENTICATION = auto()
    AUTHENTICATING = auto()
    READY = auto()
    CLOSED = auto()


class Verdict(Enum):
    """What an operation is in a state."""

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
"""The operations that may be requested in each state. ping is work too: it tells the newest
commit, which is no business of a stranger."""

REQUESTED: Final = {"hello": State.GREETING, "authenticate": State.AUTHENTICATING}
"""The operations that change the state when they are requested, with the state after."""


def verdict(state: State, operation: str) -> Verdict:
    """What it means that a client requests *operation* in *state*."""
    if operation in ACCEPTED[state]:
        return Verdict.ACCEPTED
    # A client that must authenticate and does not, or asks for a word we do not know, is told;
    # one that says hello twice, or speaks while it should wait, has lost the thread.
    if state in (State.AUTHENTICATION, State.READY) and operation not in REQUESTED:
        return Verdict.REFUSED
    return Verdict.VIOLATION


def after_answer(state: State, status: int, payload: Any) -> State:
    """The state after the answer to hello (in GREETING) or authenticate (in AUTHENTICATING).

    Raises:
        ProtocolError: the payload is not of the form that the answer has.
    """
    assert state in (State.GREETING, State.AUTHENTICATING), f"no such answer in {state}"
    if status == ERROR:
        return State.HELLO if state is State.GREETING else State.AUTHENTICATION
    match state, payload:
        case State.GREETING, [int(), str(), list(), list(mechanisms), bytes()]:
            return State.AUTHENTICATION if mechanisms else State.READY
        case State.AUTHENTICATING, [bool(done), bytes()]:
            return State.READY if done else State.AUTHENTICATION
        case _:
            raise ProtocolError(f"an answer in {state.name} that is not of its form")
