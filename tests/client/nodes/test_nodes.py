"""Finding the leader among several nodes, with servers that say what a test wants, on each face."""

from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest
import trio

import headwater
from headwater.nodes import nodes as nodes_module
from headwater_protocol.numbers import TERM_SHIFT
from tests.client.faces import FACES, run_on
from tests.client.fake_server import FakeServer
from tests.client.transport.test_channel import unused_port

ONE = b"\x01"
TIME = 1_000_000


@pytest.fixture(params=FACES)
def face(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def servers() -> Iterator[list[FakeServer]]:
    with ExitStack() as stack:
        yield [stack.enter_context(FakeServer()) for _ in range(3)]


def host(server: FakeServer) -> str:
    return f"127.0.0.1:{server.port}"


def url_of(*servers: FakeServer, read: str = "leader") -> str:
    return f"headwater://{','.join(map(host, servers))}/?read={read}"


def leads(server: FakeServer, *, commit: int = 7, epoch: int = 1) -> None:
    server.on("ping", [commit, TIME, ["leader", None, commit, epoch, 0, 0]])


def follows(server: FakeServer, leader: str | None, *, commit: int = 7, epoch: int = 1) -> None:
    server.on("ping", [commit, TIME, ["follower", leader, commit, epoch, 0, 0]])
    refusal = headwater.NotLeader("this node follows", details={"leader": leader})
    server.on("execute", refusal)


def asked(*servers: FakeServer) -> list[int]:
    """How often each node was asked what it is."""
    return [len(server.named("ping")) for server in servers]


async def put(db: headwater.Database) -> None:
    await db.put("k", 1)


def test_a_write_goes_to_the_node_that_leads(face: str, servers: list[FakeServer]) -> None:
    a, b, c = servers
    follows(a, None)
    follows(b, None)
    leads(c)
    run_on(face, url_of(*servers), put)
    assert [len(each.named("execute")) for each in servers] == [0, 0, 1]


def test_a_node_that_is_not_in_the_url_is_found_through_one_that_is(
    face: str, servers: list[FakeServer]
) -> None:
    a, b, c = servers
    follows(a, b.url)
    leads(b)
    leads(c)
    run_on(face, url_of(a), put)
    assert [len(each.named("execute")) for each in servers] == [0, 1, 0]


def test_a_node_that_is_not_there_is_passed_over(face: str, servers: list[FakeServer]) -> None:
    a, _, _ = servers
    leads(a)
    url = f"headwater://127.0.0.1:{unused_port()},{host(a)}"
    run_on(face, url, put)
    assert len(a.named("execute")) == 1


def test_a_write_goes_on_at_another_node_after_not_leader_with_the_same_id(
    face: str, servers: list[FakeServer]
) -> None:
    a, b, _ = servers
    leads(a)
    leads(b, epoch=1 << TERM_SHIFT)

    def deposed(_: Any) -> Any:
        follows(a, b.url)
        return headwater.NotLeader("it was deposed", details={"leader": b.url})

    a.on("execute", deposed)
    run_on(face, url_of(a, b), put)
    assert len(a.named("execute")) == len(b.named("execute")) == 1
    assert a.named("execute")[0].arguments == b.named("execute")[0].arguments
    # The refusal was an answer, so nothing has to be fenced.
    assert not a.named("status")
    assert not b.named("status")


def test_a_write_whose_answer_was_lost_goes_to_the_new_leader_with_the_same_id(
    face: str, servers: list[FakeServer]
) -> None:
    a, b, _ = servers
    leads(a)
    leads(b, epoch=1 << TERM_SHIFT)
    a.on("execute", a.STOP)
    run_on(face, url_of(a, b), put)
    assert a.named("execute")[0].arguments == b.named("execute")[0].arguments


def test_a_refusal_after_a_lost_answer_is_believed_only_after_a_fence_at_the_leader(
    face: str, servers: list[FakeServer]
) -> None:
    a, b, _ = servers
    leads(a)
    leads(b, epoch=1 << TERM_SHIFT)
    a.on("execute", a.STOP)
    b.on("execute", headwater.ConditionFailed("it does not hold"))
    b.on("status", ["aborted", None])
    with pytest.raises(headwater.ConditionFailed):
        run_on(face, url_of(a, b), put)
    assert b.named("status")[0].arguments == [a.named("execute")[0].arguments[0], True]


def test_a_transaction_begins_again_at_the_new_leader(face: str, servers: list[FakeServer]) -> None:
    a, b, _ = servers
    leads(a)
    leads(b, epoch=1 << TERM_SHIFT)
    follows(a, b.url)
    leads(a)
    a.on("begin", headwater.NotLeader("it was deposed", details={"leader": b.url}))
    a.on("get", headwater.TransactionGone("it is over"))
    b.on("get", ONE)
    follows_later = [7, TIME, ["follower", b.url, 7, 1, 0, 0]]
    a.on("ping", [7, TIME, ["leader", None, 7, 1, 0, 0]], follows_later)

    async def change(tx: headwater.Transaction) -> None:
        tx.put("k", await tx.get("k"))

    async def scenario(db: headwater.Database) -> None:
        await db.run(change)

    run_on(face, url_of(a, b), scenario)
    assert len(b.named("commit")) == 1
    assert not a.named("commit")


def test_a_node_of_an_earlier_term_is_not_believed_to_lead(
    face: str, servers: list[FakeServer]
) -> None:
    a, b, c = servers
    leads(a, epoch=5)
    follows(b, None, epoch=3 << TERM_SHIFT)
    leads(c, epoch=3 << TERM_SHIFT)

    async def scenario(db: headwater.Database) -> None:
        await db.nodes()
        await db.put("k", 1)

    run_on(face, url_of(*servers), scenario)
    assert [len(each.named("execute")) for each in servers] == [0, 0, 1]


def test_without_a_leader_the_error_says_what_each_node_said(
    face: str, servers: list[FakeServer]
) -> None:
    a, b, _ = servers
    follows(a, None)
    follows(b, b.url)
    gone = unused_port()
    url = f"headwater://{host(a)},{host(b)},127.0.0.1:{gone}"
    with pytest.raises(headwater.ConnectionLost) as raised:
        run_on(face, url, put, retry_timeout=0)
    assert raised.value.retryable
    for said in (
        "no node leads",
        f"{host(a)} is a follower",
        f"{host(b)} is a follower",
        f"cannot connect to 127.0.0.1:{gone}: Connection refused",
    ):
        assert said in raised.value.message


def test_nodes_that_name_each_other_are_asked_once_in_a_round(
    face: str, servers: list[FakeServer]
) -> None:
    a, b, c = servers
    follows(a, b.url)
    follows(b, c.url)
    follows(c, a.url)
    with pytest.raises(headwater.ConnectionLost, match="no node leads"):
        run_on(face, url_of(a), put, retry_timeout=0)
    # Once when the connection is opened, and once by the round.
    assert asked(*servers) == [2, 2, 2]


def test_a_round_follows_a_bounded_number_of_hops(
    face: str, monkeypatch: pytest.MonkeyPatch, servers: list[FakeServer]
) -> None:
    monkeypatch.setattr(nodes_module, "HOPS_MAX", 1)
    a, b, c = servers
    follows(a, b.url)
    follows(b, c.url)
    leads(c)
    with pytest.raises(headwater.ConnectionLost, match="no node leads"):
        run_on(face, url_of(a), put, retry_timeout=0)
    assert asked(c) == [0]


@pytest.mark.parametrize("named", ["at b", "http://b", "headwater://x,y", "", "headwater://h:0x"])
def test_a_leader_whose_address_makes_no_sense_is_ignored(
    named: str, servers: list[FakeServer]
) -> None:
    a, b, _ = servers
    follows(a, named)
    leads(b)
    run_on("blocking", url_of(a, b), put)
    assert len(b.named("execute")) == 1


def test_a_named_node_gets_no_password_without_the_tls_of_the_url(
    servers: list[FakeServer],
) -> None:
    a, _, _ = servers
    options = headwater.connect_blocking(f"headwaters://ann:secret@{host(a)}/?read=leader")._core
    channel = nodes_module.Nodes(options._runtime, options.options)  # type: ignore[arg-type]
    node = channel._by_url("headwater://elsewhere:1")
    assert node is not None
    assert node.address.tls is options.address.tls is not None
    assert node.address.user == "ann"


async def many(db: headwater.Database) -> list[BaseException]:
    """A hundred tasks that write at once, and how each failed."""
    failures: list[BaseException] = []

    async def one() -> None:
        try:
            await db.put("k", 1)
        except headwater.HeadwaterError as error:
            failures.append(error)

    async with trio.open_nursery() as nursery:
        for _ in range(100):
            nursery.start_soon(one)
    return failures


def test_many_requests_without_a_leader_ask_no_more_often_than_one(
    servers: list[FakeServer],
) -> None:
    a, b, _ = servers
    leads(a)
    follows(b, None)

    async def scenario(db: headwater.Database) -> list[BaseException]:
        follows(a, None)
        before = sum(asked(a, b))
        failures = await many(db)
        rounds = (sum(asked(a, b)) - before) / 2
        # Pauses begin at 25 ms at least and double: within a second there is room for eight.
        assert rounds <= 8
        return failures

    failures = run_on("trio", url_of(a, b), scenario, retry_timeout=1.0)
    assert len(failures) == 100
    assert all(error.retryable for error in failures if isinstance(error, headwater.ConnectionLost))


def test_tasks_that_need_the_leader_share_one_round(servers: list[FakeServer]) -> None:
    a, b, _ = servers
    follows(a, b.url)
    leads(b)

    async def scenario(db: headwater.Database) -> None:
        assert await many(db) == []

    run_on("trio", url_of(a, b), scenario)
    assert asked(a, b) == [2, 2]
    assert len(b.named("execute")) == 100


def test_a_wrong_password_is_told_at_once(face: str, servers: list[FakeServer]) -> None:
    a, b, _ = servers
    for each in (a, b):
        each.on("hello", [1, "fake", [], ["SCRAM-SHA-256"], b"0" * 16])
        each.on("authenticate", headwater.AuthenticationFailed("wrong"))
    url = f"headwater://ann:wrong@{host(a)},{host(b)}"
    with pytest.raises(headwater.AuthenticationFailed):
        run_on(face, url, put, retry_timeout=30)


def test_an_older_server_without_nodes_counts_as_the_leader(
    face: str, servers: list[FakeServer]
) -> None:
    a, _, _ = servers
    a.on("get", ONE)

    async def scenario(db: headwater.Database) -> None:
        await db.put("k", 1)
        assert await db.get("k") == 1

    for read in ("leader", "nearest", "follower"):
        run_on(face, url_of(a, read=read), scenario)


def test_the_nearest_node_is_read_and_measured_now_and_then(servers: list[FakeServer]) -> None:
    a, b, _ = servers
    leads(a)
    follows(b, a.url)
    for each in (a, b):
        each.on("read_at_least", [7, 1, ONE])

    async def scenario(db: headwater.Database) -> None:
        await db.get("k")
        await db.get("k")
        before = asked(a, b)
        for far, near in ((a, b), (b, a)):
            for node in db._channel.nodes:  # type: ignore[attr-defined]
                node.round_trip = 0.5 if str(node.address) == host(far) else 0.1
            reads = len(near.named("read_at_least")), len(far.named("read_at_least"))
            for _ in range(20):
                await db.get("k")
            now = len(near.named("read_at_least")), len(far.named("read_at_least"))
            assert now == (reads[0] + 20, reads[1])
        # Nothing was due, so nothing was measured.
        assert asked(a, b) == before
        for node in db._channel.nodes:  # type: ignore[attr-defined]
            node._review_at = 0.0
        for _ in range(20):
            await db.get("k")
        assert asked(a, b) == [each + 1 for each in before]

    run_on("blocking", url_of(a, b, read="nearest"), scenario)


def test_db_nodes_lists_those_of_the_url_and_those_that_were_named(
    face: str, servers: list[FakeServer]
) -> None:
    a, b, _ = servers
    follows(a, b.url, commit=5)
    leads(b)
    gone = f"127.0.0.1:{unused_port()}"

    async def scenario(db: headwater.Database) -> None:
        found = await db.nodes()
        assert set(found) == {host(a), host(b), gone}
        assert found[gone] is None
        follower, leader = found[host(a)], found[host(b)]
        assert follower is not None
        assert leader is not None
        assert (follower.role, follower.leader, follower.commit) == ("follower", b.url, 5)
        assert leader.role == "leader"

    run_on(face, f"headwater://{host(a)},{gone}", scenario)


def test_promote_wants_to_know_which_node(face: str, servers: list[FakeServer]) -> None:
    leads(servers[0])

    async def scenario(db: headwater.Database) -> None:
        with pytest.raises(headwater.InvalidArgument, match="promote: connect to the one node"):
            await db.promote()

    run_on(face, url_of(servers[0]), scenario)


def test_streams_of_ones_own_are_for_one_node() -> None:
    async def dial() -> Any:
        raise AssertionError

    with pytest.raises(headwater.InvalidArgument, match=r"open_stream: .* and the URL has 2"):
        headwater.connect("headwater://a,b", open_stream=dial)
