"""Transaction ids, and the time that some of them contain."""

import random
import uuid

import pytest

from headwater_server.engine.format.transaction_ids import made_between, new_transaction_id

NOW_US = 1_700_000_000_123_456


def test_a_new_id_is_a_uuid_of_version_7_of_its_millisecond() -> None:
    found = uuid.UUID(bytes=new_transaction_id(NOW_US, random.Random(1)))
    assert (found.version, found.variant) == (7, uuid.RFC_4122)
    assert found.int >> 80 == NOW_US // 1000


def test_new_ids_of_one_millisecond_differ() -> None:
    source = random.Random(1)
    assert len({new_transaction_id(NOW_US, source) for _ in range(1000)}) == 1000


def test_an_id_was_made_when_its_millisecond_began() -> None:
    identity = new_transaction_id(NOW_US, random.Random(1))
    began = NOW_US // 1000 * 1000
    assert not made_between(identity, 0, began)
    assert made_between(identity, 0, began + 1)
    assert made_between(identity, began, began + 1)
    assert not made_between(identity, began + 1, 2**62)


@pytest.mark.parametrize(
    "identity",
    [
        bytes(16),
        b"\xff" * 16,
        uuid.UUID("00000000-0000-4000-8000-000000000000").bytes,
        uuid.UUID("00000000-0000-7000-0000-000000000000").bytes,
        uuid.UUID("00000000-0000-7000-c000-000000000000").bytes,
    ],
)
def test_an_id_of_any_other_form_has_no_time(identity: bytes) -> None:
    assert not made_between(identity, 0, 2**62)
