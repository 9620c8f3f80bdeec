from typing import Any

import pytest

from headwater_protocol import limits
from headwater_protocol.errors import InvalidArgument, TooLarge
from headwater_protocol.fields import Field, ListOf, MapOf, Nullable, Record, Tagged
from headwater_protocol.limits import DEPTH_MAX, MEMBERS_MAX
from headwater_protocol.operations import CONDITION, FILTER, OPERATIONS, READ, WRITE, WRITES

TX = bytes(16)

# For each operation: arguments with nothing left out, and with all defaults left out.
EXAMPLES: dict[str, tuple[list[Any], list[Any]]] = {
    "hello": ([1, "test 1.0", ["x"]], [1]),
    "authenticate": (["SCRAM-SHA-256", b"n,,n=ann,r=x"], ["SCRAM-SHA-256", b""]),
    "ping": ([], []),
    "begin": ([TX, "snapshot", True, 7], [TX]),
    "write": ([TX, [["put", b"k", b"v"]]], [TX, []]),
    "commit": ([TX, [["delete", b"k"]]], [TX]),
    "rollback": ([TX], [TX]),
    "execute": (
        [TX, [["value", b"k", None]], [["get", b"k"]], [["add", b"k", 1]]],
        [TX],
    ),
    "status": ([TX, True], [TX]),
    "get": ([None, b"k", 7], [TX, b"k"]),
    "get_entry": ([None, b"k", 7], [TX, b"k"]),
    "get_expiry": ([None, b"k", 7], [TX, b"k"]),
    "scan": ([None, b"", None, 10, True, 7], [TX, b"a", b"b"]),
    "get_many": ([None, [b"k"], 7], [TX, [b"k", b"l"]]),
    "scan_keys": ([None, b"", None, 10, True, 7], [TX, b"a", b"b"]),
    "count_keys": ([None, b"", None, 7], [TX, b"a", b"b"]),
    "scan_prefixes": ([None, b"", None, 0, b"/", 10, 7], [TX, b"a", b"b", 1]),
    "scan_expiries": ([None, b"", None, 10, True, 7], [TX, b"a", b"b"]),
    "stream_version": ([None, "account-ann", 7], [TX, "account-ann"]),
    "read_stream": ([None, "account-ann", 3, 10, True, 7], [TX, "account-ann"]),
    "read_all": ([None, 3, {"category": "account"}, 10, True, 7], [TX]),
    "newest_position": ([None, 9, {"category": "account"}, 7], [TX]),
    "load": ([None, "account-ann", "balance", 1, 5, 7], [TX, "account-ann"]),
    "commit_at": ([1_700_000_000_000_000], [0]),
    "position_before": ([1_700_000_000_000_000], [0]),
    "read_commits": ([3, 10, True], []),
    "read_snapshots": ([b"cursor", 10, 7], []),
    "list_streams": (["account-", "account-ann", 10, 7], []),
    "list_categories": (["account", 10, 7], []),
    "find_event": ([TX, 7], [TX]),
    "key_history": ([b"k", 9, 10, 7], [b"k"]),
    "stream_history": (["account-ann", 3, 10, 7], ["account-ann"]),
    "read_commit": ([7], [7]),
    "commit_changes": ([7, b"a", b"b", 10], [7, b"", None]),
    "count_commits": (["commits", 3, 9, 2], []),
    "known_span": ([], []),
    "position_at": ([7], [7]),
    "list_snapshots": (["account-ann", b"cursor", 10, 7], ["account-ann"]),
    "scan_branches": ([b"", None, 0, b"/", 10, 10, 7], [b"a", b"b", 1]),
    "describe_streams": (["account-", "account-ann", 10, 7], []),
    "subscribe": ([3, {"types": ["Withdrawn"]}, 100], []),
    "subscribe_keys": ([b"a", None, 7, 100], [b"", b"z", 0]),
    "credit": ([3, 100], [3, 0]),
    "unsubscribe": ([3], [3]),
    "stats": ([], []),
    "backup": (["monday"], ["monday"]),
    "whoami": ([], []),
    "connection_list": ([7, 10], []),
    "connection_close": ([7], [7]),
    "conflicts": ([TX, 10], []),
    "trace": (["00-1-2-01", 7], ["00-1-2-01", 7]),
    "user_set": (
        ["ann", bytes(16), 4096, bytes(32), bytes(32), False, TX],
        ["ann", bytes(16), 4096, bytes(32), bytes(32)],
    ),
    "user_remove": (["ann", TX], ["ann"]),
    "user_list": ([], []),
    "user_grant": (["ann", [["keys", "read", b""]], ["reader"], TX], ["ann"]),
    "user_revoke": (["ann", [["group", None]], ["reader"], TX], ["ann"]),
    "user_rights": (["ann"], []),
    "user_limit": (["ann", 5000, TX], ["ann", None]),
    "role_set": (["auditor", [["streams", "read", {"prefix": "a"}]], TX], ["auditor", []]),
    "role_remove": (["auditor", TX], ["auditor"]),
    "role_list": ([], []),
    "audit_read": ([10], []),
    "user_verifiers": ([], []),
    "node": ([], []),
    "wait_commit": ([7, 100], [7]),
    "read_at_least": ([7, ["get", b"k", None], 100], [7, ["commit_at", 0]]),
    "replicate": (
        ["n", 1, 2, bytes(16), "headwater://a", bytes(16), "leader"],
        ["n", 1, 2, bytes(16)],
    ),
    "log_read": (["n", 2, 1000, 100], ["n", 2]),
    "copy_begin": (["n", bytes(16)], ["n"]),
    "copy_read": ([bytes(16), 0, 0, 1], [bytes(16), 0, 0, 1]),
    "promote": ([], []),
    "cluster_status": ([], []),
    "cluster_resign": ([], []),
    "hold_clock": ([None], [1_700_000_000_000_000]),
    "group_create": (
        ["mailer", {"category": "account"}, None, {"lease_ms": 100, "parked_stream": "hold"}, TX],
        ["mailer"],
    ),
    "group_update": (
        ["mailer", {"stream": "s"}, 7, {"attempts_max": 0, "retry_ms": 5}, TX],
        ["mailer"],
    ),
    "group_delete": (["mailer", TX], ["mailer"]),
    "group_list": ([7], []),
    "group_info": (["mailer", 7], ["mailer"]),
    "group_join": (["mailer", 16], ["mailer"]),
    "group_leave": ([7], [7]),
    "nack": (["mailer", [[9, 4711]], 1000, "broken", True, TX], ["mailer", [[9, 4711]]]),
    "group_extend": (["mailer", [[9, 4711]]], ["mailer", [[9, 4711]]]),
    "group_parked": (["mailer", 9, 10, 7], ["mailer"]),
    "group_replay": (["mailer", [9], TX], ["mailer"]),
    "group_discard": (["mailer", [9], TX], ["mailer"]),
}


def test_there_is_an_example_of_every_operation() -> None:
    assert EXAMPLES.keys() == OPERATIONS.keys()


@pytest.mark.parametrize("name", OPERATIONS)
def test_an_operation_accepts_all_arguments_or_adds_their_defaults(name: str) -> None:
    arguments = OPERATIONS[name].arguments
    full, short = EXAMPLES[name]
    assert arguments.complete(full, name) == full
    completed = arguments.complete(short, name)
    assert len(completed) == len(arguments.arguments)
    assert completed[: len(short)] == short
    # The completed arguments are valid if they are sent.
    assert arguments.complete(completed, name) == completed


@pytest.mark.parametrize("name", OPERATIONS)
def test_an_operation_refuses_one_argument_too_many_or_too_few(name: str) -> None:
    arguments = OPERATIONS[name].arguments
    full, short = EXAMPLES[name]
    with pytest.raises(InvalidArgument, match=f"^{name}: {len(full) + 1} arguments; expected"):
        arguments.complete([*full, None], name)
    if any(argument.required for argument in arguments.arguments):
        required = sum(argument.required for argument in arguments.arguments)
        with pytest.raises(InvalidArgument, match=f"^{name}: {required - 1} arguments"):
            arguments.complete(short[: required - 1], name)


@pytest.mark.parametrize("name", OPERATIONS)
def test_every_argument_is_checked_and_an_error_names_it(name: str) -> None:
    arguments = OPERATIONS[name].arguments
    full, _ = EXAMPLES[name]
    for index, argument in enumerate(arguments.arguments):
        wrong = [*full]
        wrong[index] = object()
        with pytest.raises(InvalidArgument, match=f"^{name}: {argument.name}: "):
            arguments.complete(wrong, name)


@pytest.mark.parametrize(
    "write",
    [
        ["put", b"k", b""],
        ["delete", b"k"],
        ["delete_range", b"", None],
        ["add", b"k", -1.5],
        ["min", b"k", 0],
        ["max", b"k", 0],
        ["expire", b"k", 1, None],
        ["append", "account-ann", -2, [[None, "Opened", b"{}", b""], [TX, "Closed", b"", b""]]],
        ["save_snapshot", "account-ann", "", 1, 42, b"state"],
    ],
)
def test_every_kind_of_write_is_accepted(write: list[Any]) -> None:
    WRITES.check([write])
    assert write[0] in WRITE.variants
    assert len(write) == 1 + WRITE.variants[write[0]].inside_min


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (["put", b"", b""], r"writes\[0\]: put: key: 0 bytes"),
        (["append", "s", -3, [[None, "T", b"", b""]]], r"append: expect: -3; allowed are -2 to"),
        (["append", "s", 0, []], "append: events: 0 items; allowed are 1 to"),
        (["append", "s", 0, [[b"x", "T", b"", b""]]], r"events\[0\]: id: 1 bytes; allowed are 16"),
        (["append", "s", 0, [[None, "T", b""]]], r"events\[0\]: 3 members; expected \[id, type"),
        (["add", b"k", "1"], "add: number: expected int or float"),
    ],
)
def test_a_wrong_write_is_refused_with_its_place(write: list[Any], message: str) -> None:
    with pytest.raises((InvalidArgument, TooLarge), match=message):
        OPERATIONS["write"].arguments.complete([TX, [write]], "write")


def test_the_condition_and_position_of_an_append_are_optional() -> None:
    append = ["append", "s", -1, [[None, "A", b"", b""]]]
    tails: list[list[Any]] = [[], [None], [{"query": [{"tags": ["x"]}]}], [{"types": ["A"]}, 7]]
    for tail in tails:
        OPERATIONS["write"].arguments.complete([TX, [[*append, *tail]]], "write")
    refused: list[tuple[list[Any], str]] = [
        ([{"query": []}], "write: writes.0.: append: unless: query: 0 items"),
        ([None, -1], "write: writes.0.: append: after: -1"),
        ([None, 0, 0], "write: writes.0.: append: 6 members"),
    ]
    for tail, message in refused:
        with pytest.raises(InvalidArgument, match=message):
            OPERATIONS["write"].arguments.complete([TX, [[*append, *tail]]], "write")


def test_every_kind_of_condition_and_read_is_accepted() -> None:
    for condition in (
        ["value", b"k", None],
        ["compare", b"k", "less", 1.5],
        ["stream", "account-ann", 0],
        ["unchanged", b"", None, 7],
        ["no_events", {"query": [{"tags": ["x"]}]}, 7],
    ):
        CONDITION.check(condition)
    for read in (
        ["get", b"k"],
        ["get_entry", b"k"],
        ["get_expiry", b"k"],
        ["scan", b"", None, 10, False],
        ["get_many", [b"k"]],
        ["scan_keys", b"", None, 10, False],
        ["count_keys", b"", None],
        ["scan_prefixes", b"", None, 0, None, 10],
        ["scan_expiries", b"", None, 10, False],
        ["stream_version", "account-ann"],
        ["read_stream", "account-ann", 0, 10, False],
        ["read_all", 0, {}, 10, False],
        ["load", "account-ann", "", 0, None],
    ):
        READ.check(read)
    assert CONDITION.variants.keys() == {"value", "compare", "stream", "unchanged", "no_events"}
    assert READ.variants.keys() == {
        *("get", "get_entry", "get_expiry", "scan", "scan_expiries"),
        *("get_many", "scan_keys", "count_keys", "scan_prefixes"),
        *("stream_version", "read_stream", "read_all", "load"),
    }


def test_a_filter_with_unknown_members_is_refused() -> None:
    FILTER.check({"stream": "a", "category": "b", "prefix": "c", "types": ["T"]})
    FILTER.check({"query": [{"types": ["A"]}, {"types": ["A", "B"], "tags": ["x"]}]})
    with pytest.raises(
        InvalidArgument, match="filter: 'tag' is not one of category, prefix, query"
    ):
        OPERATIONS["read_all"].arguments.complete([None, 0, {"tag": "x"}], "read_all")


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ([], r"query: 0 items; allowed are 1 to 100$"),
        ([{"tags": ["x"]}, {}], r"query\[1\]: 0 members; expected map with at least 1 of tags"),
        ([{"tags": []}], r"query\[0\]: tags: 0 items; allowed are 1 to 64"),
        ([{"types": ["A", ""]}], r"query\[0\]: types\[1\]: 0 bytes"),
        ([{"stream": "s"}], r"query\[0\]: 'stream' is not one of tags, types"),
        ({"tags": ["x"]}, r"query: expected array of 1 to 100"),
        ([{"types": ["A"] * 20}] * 51, r"query: 1020 types and tags; a query may have 1000"),
        ([{"tags": ["x"]}] * 101, r"query: 101 items; allowed are 1 to 100"),
    ],
)
def test_an_invalid_query_is_refused_with_its_place(query: Any, message: str) -> None:
    with pytest.raises((InvalidArgument, TooLarge), match=f"^read_all: filter: {message}"):
        OPERATIONS["read_all"].arguments.complete([None, 0, {"query": query}], "read_all")
    with pytest.raises((InvalidArgument, TooLarge)):
        FILTER.check({"query": query})


def inner_fields(field: Any) -> list[Field]:
    match field:
        case Nullable():
            return [field.inner]
        case ListOf():
            return [field.item]
        case Record():
            return [argument.field for argument in field.arguments]
        case Tagged():
            return [*field.variants.values()]
        case MapOf():
            return [*field.members.values()]
        case _:
            return []


def deepest(field: Any) -> int:
    below = max(map(deepest, inner_fields(field)), default=0)
    # A variant of Tagged is the array itself, not a nested one.
    array = isinstance(field, ListOf | Record | MapOf)
    return below + array


def every_field(field: Any) -> list[Any]:
    return [field, *(deeper for inner in inner_fields(field) for deeper in every_field(inner))]


def test_the_deepest_request_is_well_below_the_nesting_limit() -> None:
    deep = max(deepest(operation.arguments) for operation in OPERATIONS.values())
    # Levels: execute, reads, read_all, filter, query, criterion, tags.
    assert deep == 7
    assert deep < DEPTH_MAX


def test_no_argument_may_be_longer_than_the_limit_of_arrays() -> None:
    for operation in OPERATIONS.values():
        for field in every_field(operation.arguments):
            if isinstance(field, ListOf):
                assert field.count_max <= MEMBERS_MAX
    # A page of a scan has keys and values in one array.
    assert 2 * limits.PAGE_ITEMS_MAX <= MEMBERS_MAX


def test_every_field_describes_itself() -> None:
    for operation in OPERATIONS.values():
        for field in every_field(operation.arguments):
            assert field.describe()
