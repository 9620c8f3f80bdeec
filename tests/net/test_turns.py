"""Turns are bounded in time: a client whose turn is over lets others go first.

The tests use a clock that advances at each call, so the counts are exact.
"""

import itertools

import pytest

from headwater_protocol.connection import Push
from headwater_protocol.frames import encode_frame
from headwater_protocol.messages import encode
from headwater_server.net.session.session import open_session
from headwater_server.net.turns import Turn
from tests.net.drivers.test_plain_sockets import dial, listening
from tests.net.serving import serving


class Slow:
    """A clock that advances by some seconds at each call."""

    def __init__(self, step_s: float) -> None:
        self._step_s = step_s
        self._looks = itertools.count()

    def __call__(self) -> float:
        return next(self._looks) * self._step_s


def slow_down(turn: Turn, step_s: float) -> None:
    """Let a turn last 2 ms, and each look at its clock some time."""
    turn._length_s = 0.002
    turn.now = Slow(step_s)


def test_a_turn_is_over_after_its_length() -> None:
    now = 5.0
    turn = Turn(2, lambda: now)
    turn.begin()
    now = 5.0019
    assert not turn.over
    now = 5.002
    assert turn.over
    turn.begin()
    assert not turn.over


def test_time_in_which_others_had_the_processor_does_not_end_a_turn() -> None:
    now, used = 5.0, 1.0
    turn = Turn(2, lambda: now, lambda: used)
    turn.begin()
    now, used = 5.1, 1.0005
    assert not turn.over
    now, used = 5.1014, 1.0019
    assert not turn.over, "1.5 ms were left, and the clock is read first"
    now = 5.1016
    assert not turn.over
    used = 1.002
    now = 5.1017
    assert turn.over


@pytest.mark.parametrize(("request_ms", "served"), [(0.25, 9), (0.5, 5), (1, 3), (50, 2)])
async def test_a_session_serves_no_further_request_once_its_turn_is_over(
    request_ms: float, served: int
) -> None:
    async with serving() as server:
        service = server.server.service
        session = open_session(service, "test", lambda: None)
        slow_down(service.session_turn, request_ms / 1000)
        session.receive(encode_frame(encode([1, "hello", 1, "test"])))
        frames = [encode_frame(encode([number, "ping"])) for number in range(2, 32)]
        session.receive(b"".join(frames))
        answered: list[int] = []
        while session.runnable or session.output_size:
            count = len(session._backlog)
            answered.append(30 - sum(answered) - count)
            session.sent(len(session.output()))
            session.run()
        assert max(answered) <= served
        assert sum(answered) == 30
        session.close()


async def test_connections_that_are_served_later_get_all_their_answers_in_order() -> None:
    async with listening() as (server, listeners):
        service = server.server.service
        slow_down(service.connections_turn, 1.0)
        slow_down(service.session_turn, 1.0)
        clients = [await dial(listeners) for _ in range(5)]
        for round_number in range(20):
            puts = [
                await client.send(
                    "execute",
                    server.new_id(),
                    [],
                    [],
                    [["put", b"%d" % place, b"%d" % round_number]],
                )
                for place, client in enumerate(clients)
            ]
            gets = [await client.send("get", None, b"none") for client in clients]
            for client, put, get in zip(clients, puts, gets, strict=True):
                answers = {(await client.receive()).request_id for _ in range(2)}
                assert answers == {put, get}
        for place, client in enumerate(clients):
            assert await client.ask("get", None, b"%d" % place) == b"19"


async def test_feeds_that_are_behind_take_one_step_at_a_time_if_each_uses_up_the_turn() -> None:
    async with serving() as server:
        writer, reader = await server.connect(), await server.connect()
        await server.append(writer, "a-1", *[b"%d" % number for number in range(5)])
        feeds = server.server._subscriptions
        slow_down(feeds._turn, 1.0)
        steps: list[int] = []
        step = feeds._try_step
        turn = feeds.turn

        def counted(feed: object) -> None:
            steps[-1] += 1
            step(feed)  # type: ignore[arg-type]

        def begun() -> bool:
            steps.append(0)
            return turn()

        feeds._try_step = counted  # type: ignore[method-assign]
        feeds.turn = begun  # type: ignore[method-assign]
        numbers = [await reader.send("subscribe", 0, {"category": "a"}, 100) for _ in range(6)]
        seen: set[int] = set()
        while len(seen) < len(numbers):
            item = await reader.receive()
            if isinstance(item, Push) and item.payload[0] == "caught_up":
                seen.add(item.request_id)
        assert max(steps) == 1
