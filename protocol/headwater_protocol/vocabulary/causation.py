"""Causation: the tags that say which event caused another one, and to which chain both belong.

    $causation:0190163d-8694-739b-aea5-966c26f8ad91       the id of the event that was handled
    $correlation:0190163d-8694-739b-aea5-966c26f8ad91     the chain: any text, by default the id of
                                                          the event with which it began

They are tags, so they have the index of tags, cost nothing where there are none, and stay when the
data of an event is erased. Clients set them and hide them from the tags of an application.
"""

from collections.abc import Iterable
from typing import Final
from uuid import UUID

CAUSATION: Final = "$causation:"
CORRELATION: Final = "$correlation:"
_BOTH: Final = (CAUSATION, CORRELATION)


def causation_tag(event: UUID) -> str:
    """The tag of the events that an event has caused."""
    return f"{CAUSATION}{event}"


def correlation_tag(chain: str) -> str:
    """The tag of the events of a chain."""
    return f"{CORRELATION}{chain}"


def without_causation(tags: Iterable[str]) -> tuple[str, ...]:
    """The tags of the application alone."""
    return tuple(tag for tag in tags if not tag.startswith(_BOTH))


def causation_in(tags: Iterable[str]) -> UUID | None:
    """The id of the event that was the cause; None if there is none, or it is no UUID."""
    for tag in tags:
        if tag.startswith(CAUSATION):
            try:
                return UUID(tag[len(CAUSATION) :])
            except ValueError:
                return None
    return None


def correlation_in(tags: Iterable[str]) -> str | None:
    """The chain to which an event belongs, or None."""
    for tag in tags:
        if tag.startswith(CORRELATION):
            return tag[len(CORRELATION) :]
    return None
