import re
from typing import Any

import pytest

from headwater_protocol import errors
from headwater_protocol.errors import (
    CommitUnknown,
    Conflict,
    HeadwaterError,
    InvalidArgument,
    NotANumber,
    ProtocolError,
    WrongVersion,
    shown,
)

CLASSES = [
    value
    for value in vars(errors).values()
    if isinstance(value, type) and issubclass(value, HeadwaterError)
]


@pytest.mark.parametrize("known", CLASSES)
def test_an_error_is_decoded_to_its_own_class(known: type[HeadwaterError]) -> None:
    sent = known("what went wrong", details={"key": b"k", "commit": 7})
    found = HeadwaterError.from_payload(sent.as_payload())
    assert type(found) is known
    assert found.as_payload() == [known.code, "what went wrong", known.retryable, sent.details]
    assert str(found) == "what went wrong"


def test_each_class_has_a_unique_code_in_snake_case() -> None:
    codes = [known.code for known in CLASSES]
    assert len(set(codes)) == len(codes) == len(CLASSES)
    assert all(re.fullmatch("[a-z]+(_[a-z]+)*", code) for code in codes)


def test_two_classes_cannot_have_the_same_code() -> None:
    with pytest.raises(AssertionError, match="two error classes with the code 'conflict'"):
        type("Other", (HeadwaterError,), {}, code="conflict")


def test_an_error_can_differ_from_its_class_in_retryable() -> None:
    sent = WrongVersion("a race", retryable=True)
    found = HeadwaterError.from_payload(sent.as_payload())
    assert found.retryable
    assert not WrongVersion.retryable


def test_the_error_of_a_newer_server_is_still_readable() -> None:
    found = HeadwaterError.from_payload(["too_hot", "cool down", True, {"degrees": 99}])
    assert type(found) is HeadwaterError
    assert str(found) == "too_hot: cool down"
    assert found.retryable
    assert found.details == {"degrees": 99}


def test_additional_members_of_a_newer_server_are_ignored() -> None:
    found = HeadwaterError.from_payload(["conflict", "lost", True, {}, "more"])
    assert type(found) is Conflict


@pytest.mark.parametrize(
    "payload", [None, [], ["conflict"], ["conflict", "m", 1, {}], [1, "m", True, {}], b"x" * 999]
)
def test_a_payload_that_is_not_an_error_is_a_protocol_error(payload: Any) -> None:
    found = HeadwaterError.from_payload(payload)
    assert type(found) is ProtocolError
    assert len(found.message) < 200


def test_conflicts_and_the_unknown_transaction_are_properties() -> None:
    conflict = {"kind": "read-write", "key": b"k", "commit": 9}
    assert Conflict("lost", details={"conflicts": [conflict]}).conflicts == [conflict]
    assert Conflict("lost").conflicts == []
    assert CommitUnknown("gone", details={"transaction": bytes(16)}).transaction == bytes(16)


def test_a_class_of_errors_can_be_caught_by_its_base() -> None:
    assert issubclass(NotANumber, InvalidArgument)
    assert issubclass(WrongVersion, Conflict)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("a", "'a'"),
        ("ä", r"'\xe4'"),
        (b"\0", r"b'\x00'"),
        ("x" * 61, f"'{'x' * 60}'… (61)"),
        (b"x" * 61, f"b'{'x' * 60}'… (61)"),
        (True, "True"),
        (7, "7"),
        (2**300, "of 301 bits"),
        ([1, 2], "of 2"),
        ({"a": 1}, "of 1"),
        (None, "None"),
        (1.5, "1.5"),
    ],
)
def test_a_message_shows_the_start_of_a_value(value: Any, text: str) -> None:
    assert shown(value) == text
