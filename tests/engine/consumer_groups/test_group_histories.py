"""Random histories of a consumer group against a model of a few lines, with crashes in between.

The model knows which events were appended, which are done, which are parked, and how often each was
handed out. A delivery is right if its event is not done, not parked and not delivered already, if
all earlier events of its stream are finished, and if its attempt is the next one. An event that is
truncated or deleted is done. A group that starts over has everything after that position to do.
"""

import random
from collections import Counter
from collections.abc import Callable

import pytest

from headwater_protocol.errors import DeliveryLost
from headwater_server.engine.consumer_groups.records import read_replays
from headwater_server.engine.reads.filters import EventFilter
from headwater_server.engine.settings import EngineSettings
from tests.engine.consumer_groups.consuming import Consumer, Consuming, Delivered
from tests.engine.damaged import Closed
from tests.engine.database import Database

STEPS = 200
SETTINGS = EngineSettings(disk_reserve_size=0)


class History:
    """A group, its model, and a random source for the next step."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.hold = self.random.random() < 0.5
        self.group = Consuming(Database(SETTINGS, seed=seed))
        self.attempts_max = self.random.choice((0, 1, 2, 4))
        self.group.create(
            wanted=EventFilter(category="a"),
            lease_ms=5000,
            attempts_max=self.attempts_max,
            retry_ms=self.random.choice((0, 300)),
            parked_stream="hold" if self.hold else "continue",
        )
        self.streams: dict[str, list[int]] = {}
        self.stream_of: dict[int, str] = {}
        self.done: set[int] = set()
        self.parked: set[int] = set()
        self.hidden: set[int] = set()
        self.attempts: Counter[int] = Counter()
        self.out: dict[int, Delivered] = {}
        self.stale: list[Delivered] = []

    @property
    def members(self) -> list[Consumer]:
        active = self.group.groups.active.get(self.group.name)
        joined = [] if active is None else list(active.members)
        return [one for one in self.group.consumers if one.member in joined]

    def step(self) -> None:
        acts: list[tuple[Callable[[], None], int]] = [
            (self.append, 8),
            (self.turn, 12),
            (self.ack, 12),
            (self.nack, 3),
            (self.park, 2),
            (self.settle_what_was_lost, 2),
            (self.join, 2),
            (self.leave, 1),
            (self.pass_time, 3),
            (self.replay, 2),
            (self.discard, 1),
            (self.hide, 1),
            (self.start_over, 1),
            (self.checkpoint, 1),
            (self.crash, 1),
        ]
        act = self.random.choices([act for act, _ in acts], [weight for _, weight in acts])[0]
        act()

    def append(self) -> None:
        stream = f"a-{self.random.randrange(6)}"
        for position in self.group.append(stream, *[b"x"] * self.random.choice((1, 1, 3, 70))):
            self.streams.setdefault(stream, []).append(position)
            self.stream_of[position] = stream
        self.group.append("other-1", b"y")

    def turn(self) -> None:
        if not self.members:
            return
        before = {token for member in self.members for token in member.lost}
        delivered = self.group.turn()
        for member in self.members:
            for token in set(member.lost) - before:
                self.forget(token)
        # A lease that ended in this turn may have parked its event and released the next one.
        self.look_at_parked()
        for one in delivered:
            self.check_delivery(one)

    def check_delivery(self, one: Delivered) -> None:
        assert one.position not in self.done, f"{one} is done"
        assert one.position not in self.parked, f"{one} is parked"
        assert one.position not in self.out, f"{one} is out already"
        assert all(self.stream_of[p] != one.stream for p in self.out), f"two of {one.stream} out"
        assert one.position not in self.hidden, f"{one} is hidden"
        self.attempts[one.position] += 1
        assert one.attempt == self.attempts[one.position], f"{one} is attempt {self.attempts}"
        assert not self.attempts_max or one.attempt <= self.attempts_max
        for earlier in self.streams[one.stream]:
            if earlier >= one.position:
                break
            settled = earlier in self.done | self.hidden
            settled = settled or (not self.hold and earlier in self.parked)
            assert settled, f"{one} before {earlier}"
        self.out[one.position] = one

    def look_at_parked(self) -> None:
        """Events that were parked after their last attempt."""
        # The group may find out later that a parked event is hidden.
        parked = {position for position, _ in self.group.parked()} - self.hidden
        assert parked.isdisjoint(self.done)
        assert parked >= self.parked, "what is parked stays parked"
        self.parked = parked

    def forget(self, token: int) -> None:
        for one in [one for one in self.out.values() if one.token == token]:
            self.stale.append(self.out.pop(one.position))

    def some_out(self) -> list[Delivered]:
        held = [one for one in self.out.values() if self.is_held(one)]
        return self.random.sample(held, min(len(held), self.random.randint(1, 3)))

    def is_held(self, one: Delivered) -> bool:
        return any(one in member.has for member in self.members)

    def ack(self) -> None:
        chosen = self.some_out()
        if chosen:
            self.group.ack(*chosen, writes=[["put", b"%d" % one.position, b""] for one in chosen])
            for one in chosen:
                del self.out[one.position]
                self.done.add(one.position)

    def nack(self) -> None:
        chosen = self.some_out()
        if chosen:
            self.group.nack(*chosen, delay_ms=self.random.choice((None, 0, 2000)), reason="no")
            for one in chosen:
                self.stale.append(self.out.pop(one.position))
            self.look_at_parked()

    def park(self) -> None:
        chosen = self.some_out()
        if chosen:
            self.group.nack(*chosen, reason="never", park=True)
            for one in chosen:
                self.stale.append(self.out.pop(one.position))
                self.parked |= {one.position} - self.hidden
            self.look_at_parked()

    def settle_what_was_lost(self) -> None:
        if self.stale:
            one = self.random.choice(self.stale)
            with pytest.raises(DeliveryLost):
                self.group.ack(one, writes=[["put", b"stale", b""]])

    def join(self) -> None:
        if len(self.members) < 4:
            self.group.join(credit=self.random.choice((1, 3, 10)))

    def leave(self) -> None:
        if self.members:
            leaving = self.random.choice(self.members)
            tokens = [one.token for one in leaving.has]
            died = self.random.random() < 0.6
            self.group.leave(leaving, died=died)
            if not died:
                self.give_back(tokens)
            for token in tokens:
                self.forget(token)
            self.look_at_parked()

    def give_back(self, tokens: list[int]) -> None:
        """Deliveries that a member gave back by leaving do not count."""
        for one in self.out.values():
            if one.token in tokens:
                self.attempts[one.position] -= 1

    def pass_time(self) -> None:
        self.group.pass_time(self.random.choice((0.1, 1.2, 6)))

    def replay(self) -> None:
        if self.parked:
            count = min(len(self.parked), self.random.randint(1, 2))
            chosen = self.random.sample(sorted(self.parked), count)
            self.group.replay(*chosen)
            self.parked -= set(chosen)
            for position in chosen:
                self.attempts[position] = 0

    def discard(self) -> None:
        if self.parked:
            one = self.random.choice(sorted(self.parked))
            self.group.discard(one)
            self.parked.discard(one)
            self.done.add(one)

    def hide(self) -> None:
        if not self.streams:
            return
        stream = self.random.choice(sorted(self.streams))
        positions = self.streams[stream]
        if self.random.random() < 0.3:
            self.group.database.execute(["delete_stream", stream])
            gone = len(positions)
        else:
            gone = self.random.randint(0, len(positions))
            self.group.database.execute(["truncate", stream, gone + 1])
        self.hidden |= set(positions[:gone])
        # What a consumer holds it keeps.
        self.done |= {position for position in positions[:gone] if position not in self.out}
        self.parked -= self.hidden

    def start_over(self) -> None:
        if not self.stream_of:
            return
        after = self.random.randint(0, max(self.stream_of))
        members = self.members
        self.group.database.settle(self.group.groups.update(self.group.name, None, after, {}))
        for member in members:
            self.give_back([one.token for one in member.has])
            member.member.credit += len(member.has)
            member.has.clear()
        self.stale += self.out.values()
        waiting = self.replayed()
        self.out.clear()
        for position in self.stream_of:
            if position > after:
                self.attempts[position] = 0
                self.parked.discard(position)
                if position not in self.hidden:
                    self.done.discard(position)
            elif position not in self.parked and position not in waiting:
                self.done.add(position)

    def replayed(self) -> set[int]:
        """Events that were parked and are to be tried again, as the group has stored it."""
        database = self.group.database
        state = database.engine._state
        number = self.group.groups._definition(self.group.name).number
        return {position for position, _ in read_replays(state, state.last_commit, number)}

    def checkpoint(self) -> None:
        self.group.database.checkpoint()

    def crash(self) -> None:
        held = self.some_out()
        if held and self.random.random() < 0.5:
            # It was sequenced but never durable, so it has not happened.
            one = held[0]
            self.group.database.engine.execute(
                self.group.database.new_id(),
                user=0,
                conditions=[],
                reads=None,
                writes=[["ack", self.group.name, [[one.position, one.token]]]],
            )
        self.group = self.group.restart(self.group.database.crash())
        self.stale += self.out.values()
        self.out.clear()
        self.look_at_parked()

    def end(self) -> None:
        """Process everything, replay parked events, and check that nothing is left."""
        for member in self.members:
            self.give_back([one.token for one in member.has])
            self.group.leave(member)
        self.out.clear()
        self.look_at_parked()
        self.group.join(credit=1000)
        while True:
            self.group.pass_time(70)
            self.turn()
            if not self.out:
                self.group.pass_time(70)
                self.turn()
            if not self.out:
                self.look_at_parked()
                if not self.parked:
                    break
                self.group.replay()
                for position in self.parked:
                    self.attempts[position] = 0
                self.parked.clear()
                continue
            for one in list(self.out.values()):
                self.group.ack(one)
                del self.out[one.position]
                self.done.add(one.position)
        assert self.done | self.hidden == set(self.stream_of)
        assert self.group.parked() == []
        assert self.group.info()["position"] == self.group.info()["newest"]


@pytest.mark.parametrize("seed", range(12))
def test_a_random_history_agrees_with_the_model(seed: int) -> None:
    history = History(seed)
    for _ in range(STEPS):
        history.step()
    history.end()
    history.group.database.checkpoint()
    assert Closed(history.group.database).check().findings == []
