"""Random grants, requests and batches, against a model of what a user may do."""

import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from headwater_protocol.errors import PermissionDenied, TransactionGone
from headwater_protocol.grants import Grant
from headwater_server.engine.format.events import category_of
from headwater_server.engine.rights import Rights
from headwater_server.net.authorization import RULES, is_plainly_allowed
from tests.net.serving import Client
from tests.net.session.test_authorization import EVENT, is_denied, users

WORDS = st.text("ab", min_size=1, max_size=3)
STREAMS = st.builds(
    lambda category, rest: category + rest, WORDS, st.sampled_from(["", "-a", "-ab"])
)
UNIVERSE = [
    category + rest
    for category in ("a", "b", "aa", "ab", "ba", "aab", "abb")
    for rest in ("", "-", "-a", "-ab", "-b", "a-", "x-a")
]
STREAM_GRANTS = st.builds(
    lambda right, on, name: Grant(right, *((on, name) if on != "streams" else (on,))),
    st.sampled_from(["read", "append"]),
    st.sampled_from(["stream", "category", "prefix", "prefix", "streams"]),
    STREAMS,
)
KEY_GRANTS = st.builds(
    lambda right, prefix: Grant(right, "keys", key=prefix),
    st.sampled_from(["read", "write"]),
    st.text("ab", max_size=3).map(str.encode),
)


def may(grants: list[Grant], right: str, stream: str) -> bool:
    """The model: whether one of the grants gives a right on a stream."""
    return any(
        grant.right == right
        and (
            grant.on == "streams"
            or (grant.on == "stream" and grant.name == stream)
            or (grant.on == "category" and grant.name == category_of(stream))
            or (grant.on == "prefix" and stream.startswith(grant.name))
        )
        for grant in grants
    )


def denies(call: Any, *arguments: Any) -> bool:
    try:
        call(*arguments)
    except PermissionDenied:
        return True
    return False


@given(grants=st.lists(STREAM_GRANTS, max_size=4), stream=STREAMS)
def test_a_right_on_a_stream_is_what_the_model_says(grants: list[Grant], stream: str) -> None:
    for right in ("read", "append"):
        assert denies(Rights(grants).need_stream, right, stream) != may(grants, right, stream)


@given(
    grants=st.lists(STREAM_GRANTS, max_size=4),
    wanted=st.dictionaries(st.sampled_from(["stream", "category", "prefix"]), STREAMS),
)
def test_a_filter_that_is_allowed_shows_nothing_beyond_the_grants(
    grants: list[Grant], wanted: dict[str, str]
) -> None:
    if denies(Rights(grants).need_filter, "read", wanted):
        return
    for stream in UNIVERSE:
        fits = (
            wanted.get("stream", stream) == stream
            and wanted.get("category", category_of(stream)) == category_of(stream)
            and stream.startswith(wanted.get("prefix", ""))
        )
        assert not fits or may(grants, "read", stream), stream


@given(grant=STREAM_GRANTS)
def test_the_filter_of_a_grant_is_allowed(grant: Grant) -> None:
    wanted = {} if grant.on == "streams" else {grant.on: grant.name}
    assert not denies(Rights([grant]).need_filter, grant.right, wanted)


@given(
    grants=st.lists(KEY_GRANTS, max_size=4),
    edges=st.tuples(*[st.text("ab", max_size=4).map(str.encode)] * 2).map(sorted),
)
def test_a_range_of_keys_that_is_allowed_has_no_key_beyond_the_grants(
    grants: list[Grant], edges: list[bytes]
) -> None:
    start, end = edges
    rights = Rights(grants)
    keys = [bytes(key) for key in (b"a", b"aa", b"aab", b"ab", b"abba", b"b", b"ba", b"bbb", b"c")]
    prefixes = [grant.key for grant in grants if grant.right == "read"]
    for key in keys:
        allowed = any(key.startswith(prefix) for prefix in prefixes)
        assert denies(rights.need_key, "read", key) != allowed
        if start <= key < end and not denies(rights.need_keys, "read", start, end):
            assert allowed
    for prefix in prefixes:
        assert not denies(rights.need_keys, "read", prefix, prefix + b"\xff")
    assert denies(rights.need_keys, "read", b"", None) == (b"" not in prefixes)


@pytest.mark.source
@given(grants=st.lists(KEY_GRANTS, max_size=4), key=st.text("ab", max_size=4).map(str.encode))
def test_what_is_allowed_without_the_rules_is_allowed_by_them(
    grants: list[Grant], key: bytes
) -> None:
    transaction = bytes(16)
    put, delete = ["put", key, b"v"], ["delete", key]
    requests: list[tuple[str, list[Any]]] = [
        ("get", [None, key]),
        ("execute", [transaction, [], [], [put]]),
        ("execute", [transaction, [], [], [put, put]]),
        ("execute", [transaction, [], [], [delete]]),
        ("execute", [transaction, [], [], []]),
        ("execute", [transaction, [["value", key, b"v"]], [], [put]]),
        ("execute", [transaction, [], [["get", key]], [put]]),
        ("get_many", [None, [key]]),
        ("put", [None, key]),
    ]
    # These rules do not look at the engine. Compiled, they would insist on one.
    engine: Any = None
    for rights in (Rights(grants), Rights([*grants, Grant("admin")])):
        for operation, arguments in requests:
            if is_plainly_allowed(rights, operation, arguments):
                RULES[operation](rights, engine, arguments)
        allowed = (rights.can_read_key(key), rights.can_write_key(key))
        assert is_plainly_allowed(rights, *requests[0]) == allowed[0]
        assert is_plainly_allowed(rights, *requests[1]) == allowed[1]
        for right, may_use in zip(("read", "write"), allowed, strict=True):
            assert denies(rights.need_key, right, key) != may_use


def random_request(source: random.Random) -> tuple[str, list[Any], str, str]:
    """A request about one stream: the operation, its arguments, the right, and the stream."""
    stream = source.choice(UNIVERSE)
    append = ["append", stream, -1, [EVENT]]
    requests: list[tuple[str, list[Any], str, str]] = [
        ("read_stream", [None, stream], "read", stream),
        ("load", [None, stream], "read", stream),
        ("read_all", [None, 0, {"stream": stream}], "read", stream),
        ("execute", [source.randbytes(16), [["stream", stream, -1]]], "read", stream),
        ("execute", [source.randbytes(16), [], [], [append]], "append", stream),
    ]
    return source.choice(requests)


@hypothesis_settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 2**32), grants=st.lists(STREAM_GRANTS, max_size=4, unique=True))
async def test_random_requests_over_a_connection_are_answered_as_the_model_says(
    seed: int, grants: list[Grant]
) -> None:
    source = random.Random(seed)
    async with users() as known:
        bob = await known.bob(*map(str, grants))
        for _ in range(20):
            operation, arguments, right, stream = random_request(source)
            denied = await is_denied(bob, operation, *arguments)
            assert denied != may(grants, right, stream), (operation, stream)


def may_part(grants: list[Grant], right: str, what: str | bytes) -> bool:
    """The model: whether one of the grants gives a right on a stream or a key."""
    if isinstance(what, str):
        return may(grants, right, what)
    return any(
        grant.right == right and grant.on == "keys" and what.startswith(grant.key)
        for grant in grants
    )


def random_part(source: random.Random) -> tuple[int, list[Any], str, str | bytes]:
    """A part of an execute: its argument, the part, the right, and the stream or key."""
    stream = source.choice(UNIVERSE)
    key = source.choice([b"a", b"aa", b"ab", b"b", b"bab"])
    parts: list[tuple[int, list[Any], str, str | bytes]] = [
        (1, ["stream", stream, -1], "read", stream),
        (1, ["no_events", {"stream": stream}, 1_000], "read", stream),
        (1, ["value", key, None], "read", key),
        (2, ["read_stream", stream, 0, 1, False], "read", stream),
        (2, ["read_all", 0, {"stream": stream}, 1, False], "read", stream),
        (2, ["get", key], "read", key),
        (3, ["append", stream, -1, [EVENT]], "append", stream),
        (3, ["save_snapshot", stream, "", 0, 0, b""], "append", stream),
        (3, ["put", key, b""], "write", key),
        (3, ["add", key, 1], "write", key),
        (3, ["delete_range", key, key + b"\0"], "write", key),
    ]
    return source.choice(parts)


@hypothesis_settings(max_examples=15, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    grants=st.lists(STREAM_GRANTS | KEY_GRANTS, min_size=1, max_size=6, unique=True),
)
async def test_a_batch_is_refused_if_the_model_refuses_one_of_its_parts(
    seed: int, grants: list[Grant]
) -> None:
    source = random.Random(seed)
    async with users() as known:
        bob = await known.bob()
        await known.admin.ask("user_grant", "bob", [each.as_wire() for each in grants])
        for _ in range(20):
            whole: list[Any] = [source.randbytes(16), [], [], []]
            allowed = True
            for _ in range(source.randint(1, 4)):
                place, part, right, what = random_part(source)
                whole[place].append(part)
                allowed &= may_part(grants, right, what)
            before = known.server.engine.published
            assert await is_denied(bob, "execute", *whole) != allowed, whole
            assert allowed or known.server.engine.published == before
            # The same writes in a transaction of several requests.
            writes_allowed = True
            transaction = source.randbytes(16)
            await bob.ask("begin", transaction)
            for write in whole[3]:
                denied = await is_denied(bob, "write", transaction, [write])
                right = "append" if isinstance(write[1], str) else "write"
                assert denied != may_part(grants, right, write[1])
                writes_allowed &= not denied
            assert writes_allowed or await is_gone(bob, transaction)


async def is_gone(client: Client, transaction: bytes) -> bool:
    """Whether a transaction was rolled back."""
    try:
        await client.ask("commit", transaction)
    except TransactionGone:
        return True
    return False
