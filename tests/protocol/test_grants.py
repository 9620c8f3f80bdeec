"""Grants: the text and the form on the wire are equivalent."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headwater_protocol.errors import HeadwaterError, InvalidArgument
from headwater_protocol.grants import (
    GRANT,
    KEY_RIGHTS,
    STREAM_KINDS,
    STREAM_RIGHTS,
    Grant,
    group_grant,
    keys_grant,
    streams_grant,
)

NAMES = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=8)
MEMBERS = st.one_of(st.none(), st.booleans(), st.integers(-(2**70), 2**70), NAMES, st.binary())
GRANTS = st.one_of(
    st.builds(keys_grant, st.sampled_from(KEY_RIGHTS), st.lists(MEMBERS, max_size=3).map(tuple)),
    st.builds(streams_grant, st.sampled_from(STREAM_RIGHTS)),
    st.builds(
        lambda right, kind, name: streams_grant(right, **{kind: name}),
        st.sampled_from(STREAM_RIGHTS),
        st.sampled_from(STREAM_KINDS),
        NAMES,
    ),
    st.builds(group_grant, st.one_of(st.none(), NAMES)),
    st.sampled_from([Grant("admin"), Grant("backup"), Grant("replicate")]),
)


@given(grant=GRANTS)
def test_a_grant_survives_the_conversion_to_text_and_to_the_wire(grant: Grant) -> None:
    wire = grant.as_wire()
    GRANT(wire, "grant")
    assert Grant.from_wire(wire) == grant
    assert Grant.parse(str(grant)) == grant


@pytest.mark.parametrize(
    ("text", "wire"),
    [
        ("read:keys", ["keys", "read", b""]),
        ("write:keys:orders", ["keys", "write", b"\x02orders\0"]),
        ('read:keys:["orders", 7]', ["keys", "read", b"\x02orders\0\x15\x07"]),
        ("append:category:order", ["streams", "append", {"category": "order"}]),
        ("manage:prefix:order-2026:x", ["streams", "manage", {"prefix": "order-2026:x"}]),
        ("erase:streams", ["streams", "erase", {}]),
        ("group", ["group", None]),
        ("group:mail:er", ["group", "mail:er"]),
        ("admin", ["admin"]),
    ],
)
def test_the_text_of_a_grant(text: str, wire: list[object]) -> None:
    assert Grant.parse(text).as_wire() == wire


@pytest.mark.parametrize(
    "text",
    [
        *("", "read", "reads:keys", "append:keys", "write:streams", "write:stream:a", "backup:x"),
        *("read:stream:", "read:streams:a", "admin:keys", "read:keys:0xzz", 'read:keys:["a"'),
        *('read:keys:[["a", {}]]', "read:stream:" + "x" * 513),
    ],
)
def test_an_invalid_grant_is_refused(text: str) -> None:
    with pytest.raises(HeadwaterError) as caught:
        Grant.parse(text)
    assert caught.value.code in ("invalid_argument", "too_large")


def test_a_grant_names_streams_in_one_way() -> None:
    with pytest.raises(InvalidArgument, match="one stream"):
        streams_grant("read", category="a", prefix="a-")
