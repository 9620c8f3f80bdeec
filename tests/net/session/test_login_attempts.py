"""Failed log-ins: how many guesses an address gets, and what a burst leaves in the log."""

import pytest
import trio
import trio.testing
from structlog.testing import capture_logs

from headwater_protocol.connection import Failure, Violation
from headwater_protocol.errors import AuthenticationFailed, InvalidArgument, TooMany
from headwater_server.net.session.login_attempts import (
    ADDRESS_DELAY_S_MAX,
    DELAY_S_MIN,
    FORGOTTEN_AFTER_S,
    FREE_FAILURES,
    NAME_DELAY_S_MAX,
    REMEMBERED_MAX,
    Bursts,
    LoginAttempts,
    address_of,
)
from headwater_server.net.session.strangers import Strangers
from tests.net.serving import Client, serving, settings
from tests.net.session.test_authentication import add_user, login, server_first, verifier


class Clock:
    """A clock that a test sets."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def guesses(attempts: LoginAttempts, clock: Clock, seconds: float, address: str, name: str) -> int:
    """How many guesses come through in a time, from somebody who tries a hundred times a second."""
    count = 0
    arrived = clock.now
    end = clock.now + seconds
    while clock.now < end:
        if attempts.wait_s(address, name, arrived) <= 0:
            attempts.failed(address, name)
            count += 1
            arrived = clock.now
        clock.now += 0.01
    return count


def test_an_address_gets_a_few_guesses_a_minute() -> None:
    clock = Clock()
    attempts = LoginAttempts(clock)
    first = guesses(attempts, clock, 60, "10.0.0.1", "ann")
    later = guesses(attempts, clock, 60, "10.0.0.1", "bob")
    assert first <= FREE_FAILURES + 20
    assert later <= 60 / ADDRESS_DELAY_S_MAX + 1
    assert attempts.wait_s("10.0.0.2", "zoe", clock.now) == 0


def test_log_ins_of_ones_own_do_not_buy_guesses_at_other_names() -> None:
    clock = Clock()
    attempts = LoginAttempts(clock)
    count = 0
    arrived = clock.now
    end = clock.now + 60
    while clock.now < end:
        name = f"name {count % 50}"
        if attempts.wait_s("10.0.0.1", name, arrived) <= 0:
            attempts.failed("10.0.0.1", name)
            count += 1
            arrived = clock.now
        if attempts.wait_s("10.0.0.1", "bob", clock.now) <= 0:
            attempts.failed("10.0.0.1", "bob")
            attempts.succeeded("10.0.0.1", "bob")
        clock.now += 0.01
    assert count <= FREE_FAILURES + 20


def test_a_log_in_forgets_the_failures_of_its_name_and_no_others() -> None:
    clock = Clock()
    attempts = LoginAttempts(clock)
    for _ in range(FREE_FAILURES):
        attempts.failed("10.0.0.1", "ann")
    attempts.failed("10.0.0.1", "bob")
    attempts.succeeded("10.0.0.1", "ann")
    assert attempts.wait_s("10.0.0.1", "ann", clock.now) == 0
    for _ in range(FREE_FAILURES - 1):
        assert attempts.wait_s("10.0.0.1", "zoe", clock.now) == 0
        attempts.failed("10.0.0.1", "eve")
    assert attempts.wait_s("10.0.0.1", "zoe", clock.now) > 0


def test_a_log_in_takes_no_failures_from_the_count_that_were_forgotten() -> None:
    clock = Clock()
    attempts = LoginAttempts(clock)
    for _ in range(100):
        attempts.failed("10.0.0.1", "bob")
    clock.now += FORGOTTEN_AFTER_S + 1
    for number in range(FREE_FAILURES):
        attempts.failed("10.0.0.1", f"name {number}")
    attempts.succeeded("10.0.0.1", "bob")
    assert attempts.wait_s("10.0.0.1", "zoe", clock.now) > 0


def test_guesses_of_others_do_not_delay_who_logged_in_from_the_same_address() -> None:
    clock = Clock()
    attempts = LoginAttempts(clock)
    attempts.succeeded("10.0.0.1", "ann")
    for number in range(100):
        attempts.failed("10.0.0.1", f"name {number}")
        attempts.failed("10.0.0.2", "ann")
    assert attempts.wait_s("10.0.0.1", "ann", clock.now) == 0
    assert attempts.wait_s("10.0.0.1", "bob", clock.now) == ADDRESS_DELAY_S_MAX
    assert attempts.wait_s("10.0.0.3", "ann", clock.now) == NAME_DELAY_S_MAX
    for _ in range(FREE_FAILURES):
        attempts.failed("10.0.0.1", "ann")
    clock.now += FORGOTTEN_AFTER_S + 1
    attempts.failed("10.0.0.1", "ann")
    for _ in range(FREE_FAILURES):
        attempts.failed("10.0.0.1", "bob")
    assert attempts.wait_s("10.0.0.1", "ann", clock.now) > 0


@pytest.mark.parametrize(
    ("guessed_at", "guessed", "bound"),
    [("10.0.0.1", "bob", ADDRESS_DELAY_S_MAX), ("10.0.0.2", "ann", NAME_DELAY_S_MAX)],
)
def test_guessers_do_not_take_every_turn_from_a_first_log_in(
    guessed_at: str, guessed: str, bound: float
) -> None:
    clock = Clock()
    attempts = LoginAttempts(clock)
    for _ in range(100):
        attempts.failed(guessed_at, guessed)
    arrived = clock.now
    while attempts.wait_s("10.0.0.1", "ann", arrived) > 0:
        # Somebody else's proof is looked at whenever one may be.
        if attempts.wait_s(guessed_at, guessed, arrived) <= 0:
            attempts.failed(guessed_at, guessed)
        clock.now += 0.01
    assert clock.now - arrived <= bound + 0.02


def test_of_many_first_log_ins_of_a_name_at_an_address_one_is_looked_at() -> None:
    clock = Clock()
    attempts = LoginAttempts(clock)
    for _ in range(100):
        attempts.failed("10.0.0.1", "bob")
    arrived = clock.now
    clock.now += ADDRESS_DELAY_S_MAX
    assert attempts.wait_s("10.0.0.1", "ann", arrived) == 0
    attempts.failed("10.0.0.1", "ann")
    assert attempts.wait_s("10.0.0.1", "ann", arrived) == ADDRESS_DELAY_S_MAX


def test_log_ins_are_remembered_in_bounded_number() -> None:
    attempts = LoginAttempts(Clock())
    for number in range(2 * REMEMBERED_MAX):
        attempts.succeeded("10.0.0.1", f"name {number}")
    assert len(attempts._succeeded) == REMEMBERED_MAX


async def test_a_user_who_was_there_before_comes_in_while_others_guess(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with serving() as server:
        await add_user(await server.connect(), "ann", "secret")
        await login(await server.connect(), "ann", "secret")
        waiting = [await server.connect() for _ in range(20)]
        async with trio.open_nursery() as nursery:

            async def guess(client: Client) -> None:
                with pytest.raises((AuthenticationFailed, AssertionError)):
                    await login(client, "bob", "wrong")

            for client in waiting:
                nursery.start_soon(guess, client)
            await trio.testing.wait_all_tasks_blocked()
            began = trio.current_time()
            await login(await server.connect(), "ann", "secret")
            assert trio.current_time() == began
            nursery.cancel_scope.cancel()


async def test_a_user_comes_in_for_the_first_time_while_others_guess_at_the_same_address(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with serving() as server:
        await add_user(await server.connect(), "ann", "secret")
        async with trio.open_nursery() as nursery:

            async def guess(number: int) -> None:
                while True:
                    client = await server.connect()
                    # Those who wait too long are told so without a request's id.
                    with pytest.raises((AuthenticationFailed, AssertionError)):
                        await login(client, f"name {number}", "wrong")

            for number in range(30):
                nursery.start_soon(guess, number)
            await trio.sleep(60)
            began = trio.current_time()
            await login(await server.connect(), "ann", "secret")
            # The delay, and the time to the next tick of the maintenance.
            assert trio.current_time() - began <= ADDRESS_DELAY_S_MAX + 1
            nursery.cancel_scope.cancel()


def test_guesses_from_many_addresses_delay_a_user_by_a_bounded_time() -> None:
    clock = Clock()
    attempts = LoginAttempts(clock)
    for number in range(1000):
        attempts.failed(f"10.0.0.{number}", "ann")
    assert attempts.wait_s("192.168.0.1", "ann", clock.now) == NAME_DELAY_S_MAX
    attempts.succeeded("192.168.0.1", "ann")
    assert attempts.wait_s("192.168.0.1", "ann", clock.now) == 0


def test_failures_are_forgotten_after_a_quiet_time_and_bounded_in_number() -> None:
    clock = Clock()
    attempts = LoginAttempts(clock)
    for _ in range(FREE_FAILURES + 10):
        attempts.failed("10.0.0.1", "ann")
    clock.now += FORGOTTEN_AFTER_S + 1
    attempts.failed("10.0.0.1", "ann")
    assert attempts.wait_s("10.0.0.1", "ann", clock.now) == 0
    for number in range(2 * REMEMBERED_MAX):
        attempts.failed(f"address {number}", f"name {number}")
    assert len(attempts._failures) == REMEMBERED_MAX


def test_of_a_burst_one_line_is_written_and_the_next_one_counts_the_others() -> None:
    clock = Clock()
    bursts = Bursts(clock)
    assert bursts.admit("a") == 0
    assert [bursts.admit("a") for _ in range(5)] == [None] * 5
    assert bursts.admit("b") == 0
    clock.now += 11
    assert bursts.admit("a") == 5


@pytest.mark.parametrize(
    ("peer", "address"),
    [("10.0.0.1:4323", "10.0.0.1"), ("[::1]:4323", "[::1]"), ("memory", "memory"), ("a:b", "a:b")],
)
def test_the_address_of_a_peer_is_without_its_port(peer: str, address: str) -> None:
    assert address_of(peer) == address


async def test_after_three_failures_even_the_right_password_has_to_wait(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with serving() as server:
        await add_user(await server.connect(), "ann", "secret")
        with capture_logs() as logged:
            for _ in range(FREE_FAILURES):
                client = await server.connect()
                with pytest.raises(AuthenticationFailed):
                    await login(client, "ann", "wrong")
                await client.close()
        assert len([line for line in logged if line["event"] == "authentication failed"]) == 1
        began = trio.current_time()
        client = await server.connect()
        await login(client, "ann", "secret")
        assert trio.current_time() - began >= DELAY_S_MIN
        await client.ask("ping")
        other = await server.connect()
        now = trio.current_time()
        await login(other, "ann", "secret")
        assert trio.current_time() == now


async def test_guesses_on_many_connections_are_looked_at_one_after_the_other(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with serving(settings(hello_ms_max=3_600_000)) as server:
        await add_user(await server.connect(), "ann", "secret")
        failed: list[float] = []

        async def guess() -> None:
            client = await server.connect()
            with pytest.raises(AuthenticationFailed):
                await login(client, "ann", "wrong")
            failed.append(trio.current_time())

        async with trio.open_nursery() as nursery:
            for _ in range(30):
                nursery.start_soon(guess)
    assert max(failed) - min(failed) > (len(failed) - FREE_FAILURES - 10) * ADDRESS_DELAY_S_MAX


async def test_silent_connections_of_one_address_leave_room_for_others() -> None:
    async with serving(settings()) as server:
        service = server.server.service
        service.strangers = Strangers(count_max=9, per_address_max=2)
        known = await server.connect()
        silent = [await server.connect(hello=False) for _ in range(2)]
        await trio.testing.wait_all_tasks_blocked()
        refused = await (await server.connect(hello=False)).receive()
        assert isinstance(refused, Failure | Violation)
        assert isinstance(refused.error, TooMany)
        assert "2 connections from memory have not authenticated" in refused.error.message
        await known.ask("ping")
        await silent[0].hello()
        assert await (await server.connect()).ask("ping")


@pytest.mark.parametrize(
    "name", ["e\u0301ric", "\ufb01nn", "ad\u00admin", "a\u00a0b", "a\x7f", "\u0627b"]
)
async def test_a_name_that_could_never_log_in_is_refused(name: str) -> None:
    async with serving() as server:
        client = await server.connect()
        with pytest.raises(InvalidArgument, match="SASLprep"):
            await add_user(client, name, "secret")
        assert await client.ask("user_list") == []


async def test_the_salts_of_unknown_names_stay_when_users_change() -> None:
    async with serving() as server:
        await add_user(await server.connect(), "ann", "secret")
        before = {name: await server_first(server, name) for name in ("bob", "eve", "zoe")}
        ann = await server.connect()
        await login(ann, "ann", "secret")
        await ann.ask("user_set", "ann", *verifier("other"), False)
        after = {name: await server_first(server, name) for name in before}
        assert {name: first["s"] for name, first in before.items()} == {
            name: first["s"] for name, first in after.items()
        }
