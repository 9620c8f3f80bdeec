"""Key spaces, and the keys of snapshots."""

from headwater_protocol.limits import NUMBER_MAX
from headwater_server.engine.format import keyspaces
from headwater_server.engine.format.keyspaces import (
    SnapshotKey,
    parse_snapshot_key,
    snapshot_key,
    snapshot_range,
)


def test_a_snapshots_key_decodes_to_what_was_encoded() -> None:
    for key in (
        SnapshotKey("account-ann", "totals", 1, 42),
        SnapshotKey("ü", "", 2**32 - 1, NUMBER_MAX),
        SnapshotKey("a", "b", 0, 0),
    ):
        assert parse_snapshot_key(snapshot_key(*key)) == key


def test_a_range_has_the_versions_of_one_code_and_no_others() -> None:
    first, last = snapshot_range("a", "n", 1, 5)
    inside = [snapshot_key("a", "n", 1, version) for version in (0, 1, 5)]
    outside = [
        snapshot_key("a", "n", 1, 6),
        snapshot_key("a", "n", 0, 3),
        snapshot_key("a", "n", 2, 3),
        snapshot_key("a", "", 1, 3),
        snapshot_key("a", "n-", 1, 3),
        snapshot_key("a-", "n", 1, 3),
        snapshot_key("", "n", 1, 3),
    ]
    assert all(first <= key < last for key in inside)
    assert not any(first <= key < last for key in outside)
    first, last = snapshot_range("a", "n", 1, NUMBER_MAX)
    assert first <= snapshot_key("a", "n", 1, NUMBER_MAX) < last


def test_versions_are_in_order_of_their_keys() -> None:
    versions = [0, 1, 255, 256, 65536, NUMBER_MAX]
    keys = [snapshot_key("a", "", 7, version) for version in versions]
    assert keys == sorted(keys)


def test_key_spaces_are_adjacent() -> None:
    assert keyspaces.USER_END == keyspaces.SNAPSHOTS
    assert keyspaces.SNAPSHOTS_END == keyspaces.ACCOUNTS
    assert keyspaces.ACCOUNTS < keyspaces.ACCOUNTS_END


def test_no_key_space_contains_a_reserved_byte() -> None:
    ours = [
        (keyspaces.USER, keyspaces.USER_END),
        (keyspaces.SNAPSHOTS, keyspaces.SNAPSHOTS_END),
        (keyspaces.ACCOUNTS, keyspaces.ACCOUNTS_END),
        (keyspaces.GROUPS, keyspaces.GROUPS_END),
        (keyspaces.RETENTION, keyspaces.RETENTION_END),
        (keyspaces.ERASURES, keyspaces.ERASURES_END),
    ]
    for reserved in keyspaces.RESERVED:
        assert not any(start <= reserved < end for start, end in ours)
    # f2 is reserved for the retention of streams of further databases. In a record of the log,
    # retention comes after all keys, so the other reserved bytes must be lower than f0.
    assert max(keyspaces.RESERVED - {b"\xf2"}) < keyspaces.RETENTION < b"\xf2"
