"""The index of live filters: each event reaches the filters that it matches, and no others."""

import random
from typing import cast

import pytest

from headwater_server.engine.format.events import decode_event, encode_event
from headwater_server.engine.reads.filters import EVERYTHING, Criterion, EventFilter
from headwater_server.net.push.channels import Owner, Subscriber
from headwater_server.net.push.event_source import EventFeed
from headwater_server.net.push.feeds import Feed
from headwater_server.net.push.live_index import LiveIndex

STREAMS = ["a-1", "a-2", "b-1", "b"]
TYPES = ["T", "U", "V"]
TAGS = ["x", "y", "z"]


def some_filter(source: random.Random) -> EventFilter:
    def some(names: list[str], least: int = 0) -> tuple[str, ...]:
        return tuple(source.sample(names, source.randint(least, 2)))

    def criterion() -> Criterion:
        tags = some(TAGS)
        return Criterion(some(TYPES, 0 if tags else 1), tags)

    return EventFilter(
        stream=source.choice([None, None, None, *STREAMS]),
        category=source.choice([None, None, "a", "b"]),
        prefix=source.choice([None, None, None, "a-", "b", "a-1", "a-11"]),
        types=some(TYPES) if source.random() < 0.3 else (),
        query=tuple(criterion() for _ in range(source.choice([0, 0, 1, 2, 3]))),
    )


@pytest.mark.parametrize("seed", range(5))
def test_the_index_finds_what_comparing_every_filter_finds(seed: int) -> None:
    source = random.Random(seed)
    index: LiveIndex[EventFeed] = LiveIndex()
    filters = {EVERYTHING, *(some_filter(source) for _ in range(200))}
    nobody, nothing = cast(Subscriber, None), cast(Owner, None)
    feeds = [Feed(nothing, nobody, 1, 0, wanted, 0) for wanted in filters for _ in range(2)]
    for feed in feeds:
        index.add(feed)
    events = [
        encode_event(
            position,
            source.choice(STREAMS),
            1,
            1,
            0,
            bytes(16),
            source.choice(TYPES),
            b"",
            b"",
            source.sample(TAGS, source.randint(0, 3)),
        )
        for position in range(1, 40)
    ]
    for count in (len(feeds), 100, 0):
        while len(feeds) > count:
            index.remove(feeds.pop(source.randrange(len(feeds))))
        wanted_now = {feed.wanted for feed in feeds}
        assert {filtered.wanted: found for filtered, found in index.batches(events)} == {
            wanted: fitting
            for wanted in wanted_now
            if (fitting := [event for event in events if wanted.fits(decode_event(event))])
        }
    assert not index.filters
    assert not any(index._places.values())
    assert not index._others
    assert not index._lengths
