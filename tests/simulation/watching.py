"""Watchers: clients that subscribe and record what they receive, across reconnections."""

import random

import trio

import headwater
from headwater.database import Database
from tests.simulation import unreadable
from tests.simulation.history import Feed, History, Seen, erased_element

_WINDOWS = (1, 3, 50, 4096)


def draw_feed(client: str, dice: random.Random) -> Feed:
    """A subscription with a random filter."""
    match dice.choice(("all", "all", "category", "stream", "prefix", "types", "tags")):
        case "category":
            return Feed(client, 0, category=dice.choice(("list", "order", "aggregate", "kept")))
        case "stream":
            return Feed(client, 0, stream=dice.choice(("list-0", "note", "aggregate-1", "kept-0")))
        case "prefix":
            return Feed(client, 0, prefix=dice.choice(("order-", "l", "aggregate-2")))
        case "types":
            return Feed(client, 0, kinds=dice.choice((("Paid",), ("Listed", "Sent"))))
        case "tags":
            return Feed(
                client, 0, tags=dice.choice((("red",), ("red", "odd"), ("blue",), ("green",)))
            )
        case _:
            return Feed(client, 0)


async def watch(
    database: Database, feed: Feed, dice: random.Random, goal: "Goal", history: History
) -> None:
    """Receive events until the goal is reached or the subscription is given up.

    Raises:
        headwater.HeadwaterError: the connection is lost permanently, or could not be opened.
    """
    patience = dice.choice((5, 50, 1000))
    one_by_one = goal.position is None and dice.random() < 0.3
    lazy = dice.random() < 0.3
    floor = history.acknowledged
    async with database.subscribe(
        after=feed.position,
        category=feed.category,
        stream=feed.stream,
        prefix=feed.prefix,
        types=feed.kinds or None,
        tags=feed.tags or None,
        window=dice.choice(_WINDOWS),
    ) as subscription:
        goal.waiting.add(feed.client)
        if one_by_one:
            # It may end within a batch. Whoever goes on at its position must get the rest.
            try:
                with trio.move_on_after(dice.expovariate(1 / 0.5)):
                    for _ in range(dice.randint(1, 9)):
                        feed.events.append(seen(await subscription.next_event()))
                        feed.floors.append(floor)
            finally:
                feed.position = subscription.position
            return
        async for item in subscription:
            feed.position = subscription.position
            if isinstance(item, headwater.EventBatch):
                feed.events += [seen(event) for event in item]
                feed.floors += [floor] * len(item)
                if lazy:
                    await trio.sleep(dice.expovariate(1 / 0.05))
            elif isinstance(item, headwater.CaughtUp):
                feed.caught_up = max(feed.caught_up, item.position)
            patience -= 1
            if goal.is_reached(feed) or (patience <= 0 and goal.position is None):
                return


class Goal:
    """The position that all watchers must reach, known at the end of the world.

    Attributes:
        position: the position of the newest event; None while there may be more.
        waiting: watchers that subscribed at least once.
    """

    def __init__(self) -> None:
        self.position: int | None = None
        self.waiting: set[str] = set()

    def is_reached(self, feed: Feed) -> bool:
        """Whether the subscriber has received all its events."""
        return self.position is not None and feed.caught_up >= self.position


def element_of(event: headwater.RecordedEvent) -> str:
    """The element of an event, or the placeholder of an erased one."""
    return erased_element(event.position) if event.erased else unreadable.element_of(event)


def seen(event: headwater.RecordedEvent) -> Seen:
    """An event in the form of a history."""
    element = element_of(event)
    return Seen(event.position, event.stream, event.version, event.commit, event.type, element)
