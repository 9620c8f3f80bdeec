"""The contents of the test vectors: keys, requests, answers, errors, and wrong frames."""

import struct
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final
from uuid import UUID

from headwater_protocol.keys import Key, encode_key
from headwater_protocol.operations import ERROR, OK, PUSH

TX: Final = UUID("0190163d-8694-739b-aea5-966c26f8ad91").bytes
EVENT_ID: Final = UUID("0190163d-8694-7f00-8000-0123456789ab").bytes
DATABASE: Final = UUID("3d4f0e9c-52a7-4b7e-9d0e-6a1a5c1f2b3d").bytes
TIME: Final = 1_718_000_000_123_456
BALANCE: Final = encode_key(("balance", "ann"))
ANN: Final = "account-ann"

KEYS: Final[list[tuple[Key, ...]]] = [
    (None,),
    (False,),
    (True,),
    *((number,) for number in (0, 1, -1, 255, 256, -255, -256, 65535, 65536)),
    *(
        (sign * 2**bits + offset,)
        for bits in (31, 53, 63, 64)
        for sign in (1, -1)
        for offset in (-1, 0)
    ),
    (2**100,),
    (-(2**100),),
    (256**255 - 1,),
    (1 - 256**255,),
    *((number,) for number in (0.0, 1.5, -1.5, 1e300, -1e300, 5e-324)),
    (float("inf"),),
    (float("-inf"),),
    ("",),
    ("ann",),
    ("a\0b",),
    ("Zoë 💧",),
    (b"",),
    (b"\x00\xff\x00",),
    (UUID("0190163d-8694-739b-aea5-966c26f8ad91"),),
    (datetime(1970, 1, 1, tzinfo=UTC),),
    (datetime(1969, 7, 20, 20, 17, 40, tzinfo=UTC),),
    (datetime(2024, 6, 10, 6, 13, 20, 123456, tzinfo=UTC),),
    ((),),
    ((None, "a", (1, b"\0")),),
    ("balance", "ann"),
    ("balance", "ann", 7),
    ("order", 2024, datetime(2024, 6, 10, tzinfo=UTC), None, True),
]

KEYS_IN_ORDER: Final[list[tuple[Key, ...]]] = [
    (None,),
    (None, 1),
    (b"",),
    (b"\0",),
    (b"\0\xff",),
    (b"\x01",),
    ("",),
    ("a",),
    ("a", None),
    ("a", 1),
    ("a\0",),
    ("aa",),
    ("z",),
    ("é",),
    ("💧",),
    ((),),
    ((), 1),
    ((None,),),
    (("a",),),
    (-(2**70),),
    (-(2**64),),
    (-256,),
    (-255,),
    (-1,),
    (0,),
    (1,),
    (255,),
    (256,),
    (2**64 - 1,),
    (2**64,),
    (2**70,),
    (float("-inf"),),
    (-1.5,),
    (0.0,),
    (5e-324,),
    (1.5,),
    (float("inf"),),
    (False,),
    (True,),
    (UUID(int=1),),
    (UUID(int=2**127),),
    (datetime(1969, 12, 31, tzinfo=UTC),),
    (datetime(1970, 1, 1, tzinfo=UTC),),
    (datetime(2024, 6, 10, tzinfo=UTC),),
]

KEYS_DOCUMENTED: Final[dict[str, tuple[Key, ...]]] = {
    '"balance", "ann", 7': ("balance", "ann", 7),
    "nil, false, true": (None, False, True),
    "0, 1, 255, 256": (0, 1, 255, 256),
    "-1, -255, -256": (-1, -255, -256),
    "2^64 - 1": (2**64 - 1,),
    "2^64": (2**64,),
    "-(2^64)": (-(2**64),),
    "1.5, -1.5": (1.5, -1.5),
    r'"a\0b"': ("a\0b",),
    "h'00ff'": (b"\x00\xff",),
    '(nil, "a")': ((None, "a"),),
    "UUID 0190163d-8694-739b-aea5-966c26f8ad91": (UUID(bytes=TX),),
    "2024-06-10T06:13:20.123456Z": (datetime(2024, 6, 10, 6, 13, 20, 123456, tzinfo=UTC),),
}
"""Keys as docs/protocol.md shows them."""

PREFIXES: Final[list[tuple[Key, ...]]] = [(), ("balance",), ("balance", "ann"), (7,), (None,)]

KEYS_REFUSED: Final = {
    "": "no bytes",
    "0261": "a str without an end",
    "02ff00": "a str that is not UTF-8",
    "0514": "a tuple without an end",
    "1601": "an int with fewer bytes than its code says",
    "160001": "an int of more bytes than it needs",
    "21ffffffffffffffff": "NaN",
    "217fffffffffffffff": "-0.0, which is 0.0",
    "2000000000": "a type that Headwater does not have (float of 32 bits)",
    "ff": "the code of no type",
}

# The example of RFC 7677: user "user", password "pencil".
SCRAM_NONCE: Final = b"rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0"
SCRAM: Final = [
    b"n,,n=user,r=rOprNGfwEbeRWgbNEkqO",
    b"r=" + SCRAM_NONCE + b",s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096",
    b"c=biws,r=" + SCRAM_NONCE + b",p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=",
    b"v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=",
]

EVENT_IN: Final = [None, "Withdrawn", b"\x81\xa6amount\x0a", b""]
EVENT_OUT: Final = [9, ANN, 3, 42, TIME, EVENT_ID, "Withdrawn", b"\x81\xa6amount\x0a", b"", []]
NOTED_IN: Final = [EVENT_ID, "Noted", b"", b"\x80", ["branch:7", "teller:bob"]]
NOTED_OUT: Final = [9, ANN, 3, 42, TIME, EVENT_ID, "Noted", b"", b"\x80", NOTED_IN[4]]
ERASED_OUT: Final = [9, ANN, 3, 42, TIME, EVENT_ID, "Noted", None, None, []]
COMMITTED: Final = [42, TIME, 9, 9, {ANN: 3}]


@dataclass(frozen=True)
class Example:
    """A request, and an answer that it may get."""

    name: str
    arguments: list[Any]
    answer: Any


CONNECTION: Final[dict[str, Any]] = {
    "address": "127.0.0.1:50412",
    "user": "ann",
    "client": "headwater-python/0.1.0",
    "age_ms": 1500,
    "memory": 0,
    "transactions": 1,
    "subscriptions": 2,
    "memberships": 0,
}

REFUSED: Final[dict[str, Any]] = {
    "transaction": TX,
    "code": "conflict",
    "message": "read-write conflict on stream 'account-ann': written by commit 42",
    "time": TIME,
    "user": "ann",
    "connection": "127.0.0.1:50412 ann headwater-python/0.1.0",
    "isolation": "serializable",
    "began": 41,
    "newest": 42,
    "read": {"keys": [], "ranges": [], "streams": [ANN], "queries": [], "count": 1},
    "wrote": {
        "keys": [BALANCE], "ranges": [], "streams": [ANN], "snapshots": [], "events": 1, "count": 2,
    },
    "conflicts": [
        {"kind": "read-write", "stream": ANN, "commit": 42, "transaction": bytes(range(16))}
    ],
    "winners": [
        {
            "commit": 42, "transaction": bytes(range(16)), "time": TIME, "user": "bob", "events": 1,
            "streams": [ANN], "keys": [],
        }
    ],
}  # fmt: skip

EXAMPLES: Final = [
    Example(
        "hello",
        [1, "example 1.0", ["node"]],
        [1, "headwater 1.0", ["node"], [], DATABASE, ["leader", None, 42, 1, 0, 0]],
    ),
    Example(
        "hello",
        [1, "example 1.0", []],
        [1, "headwater 1.0", [], ["SCRAM-SHA-256"], DATABASE],
    ),
    Example("authenticate", ["SCRAM-SHA-256", SCRAM[0]], [False, SCRAM[1]]),
    Example("authenticate", ["SCRAM-SHA-256", SCRAM[2]], [True, SCRAM[3]]),
    Example("ping", [], [42, TIME, ["leader", None, 42, 1, 0, 0]]),
    Example("begin", [TX], [41]),
    Example("begin", [TX, "snapshot", True, 7], [7]),
    Example("write", [TX, [["put", BALANCE, b"\x5a"]]], None),
    Example(
        "commit",
        [TX, [["put", BALANCE, b"\x5a"], ["append", ANN, 2, [EVENT_IN]]]],
        COMMITTED,
    ),
    Example("commit", [TX], [41, TIME, None, None, {}]),
    Example("rollback", [TX], None),
    Example(
        "execute",
        [
            TX,
            [["value", BALANCE, b"\x64"], ["stream", ANN, 2], ["unchanged", b"\x02", None, 40]],
            [["get", BALANCE], ["read_stream", ANN, 1, 10, False]],
            [
                ["delete", encode_key(("lock", "ann"))],
                ["delete_range", b"\x02tmp\0", b"\x02tmp\0\xff"],
                ["add", encode_key(("hits",)), 1],
                ["min", encode_key(("lowest",)), -1.5],
                ["max", encode_key(("highest",)), 2**63],
                ["append", ANN, -1, [EVENT_IN, NOTED_IN]],
                ["save_snapshot", ANN, "balance", 1, 3, b"\x5a"],
            ],
        ],
        [COMMITTED, [b"\x64", [41, 2, [], False]]],
    ),
    Example("status", [TX], ["committed", COMMITTED]),
    Example("status", [TX, True], ["aborted", None]),
    Example("get", [None, BALANCE], b"\x5a"),
    Example("get", [TX, BALANCE], None),
    Example(
        "scan",
        [None, encode_key(("balance",)), encode_key(("balance",)) + b"\xff", 2],
        [42, [BALANCE, b"\x5a", encode_key(("balance", "bob")), b"\x07"], True],
    ),
    Example("scan", [None, b"", None, 10, True, 7], [7, [], False]),
    Example("read_stream", [None, ANN, 2], [42, 3, [EVENT_OUT], False]),
    Example("read_stream", [None, "account-zoe"], [42, 0, [], False]),
    Example("read_all", [None, 8, {"category": "account"}], [42, 9, [EVENT_OUT], False]),
    Example(
        "read_all",
        [None, 0, {"prefix": "account-a", "types": ["Withdrawn", "Noted"]}, 1, True, 42],
        [42, 9, [EVENT_OUT], True],
    ),
    Example("load", [None, ANN, "balance", 1], [42, 3, [2, b"\x64"], [EVENT_OUT], False, 1]),
    Example("load", [TX, ANN], [41, 0, None, [], False, 1]),
    Example("commit_at", [TIME], 42),
    Example("position_before", [TIME], 8),
    Example("read_commits", [41, 1], [[42, TX, TIME, None, 9, 1]]),
    Example("read_snapshots", [], [[[ANN, "balance", 1, 2, b"\x64"]], None]),
    Example("subscribe", [8, {"category": "account"}, 100], None),
    Example("subscribe", [], None),
    Example("credit", [7, 100], None),
    Example("unsubscribe", [7], None),
    Example("stats", [], {"commits": 42, "connections": 1}),
    Example("user_set", ["ann", bytes(16), 4096, bytes(32), bytes(range(32))], None),
    Example("user_remove", ["ann"], None),
    Example("user_list", [], ["ann", "bob"]),
    Example("read_stream", [None, ANN, 2], [42, 3, [NOTED_OUT], False]),
    Example(
        "execute",
        [
            TX,
            [["no_events", {"query": [{"types": ["Noted"], "tags": ["branch:7"]}]}, 8]],
            [],
            [["append", ANN, -1, [NOTED_IN], {"query": [{"tags": ["branch:7"]}]}, 8]],
        ],
        [COMMITTED, []],
    ),
    Example(
        "read_all",
        [None, 0, {"query": [{"types": ["Noted"], "tags": ["branch:7"]}, {"tags": ["x", "y"]}]}],
        [42, 9, [NOTED_OUT], False],
    ),
    Example("read_stream", [None, ANN, 2], [42, 3, [ERASED_OUT], False]),
    Example("group_create", ["mailer", {"category": "account"}, None, {"attempts_max": 5}], [9]),
    Example("group_create", ["mailer"], [0]),
    Example("group_update", ["mailer", None, 0, {"parked_stream": "continue"}], None),
    Example("group_delete", ["mailer"], None),
    Example("group_list", [], [["mailer", 8, 2, 0]]),
    Example(
        "group_info",
        ["mailer"],
        {
            "name": "mailer",
            "filter": {"category": "account"},
            "lease_ms": 30000,
            "attempts_max": 5,
            "retry_ms": 1000,
            "parked_stream": "hold",
            "position": 8,
            "newest": 9,
            "members": 2,
            "in_flight": 1,
            "retrying": 0,
            "parked": 0,
            "waiting": 0,
        },
    ),
    Example("group_join", ["mailer", 16], None),
    Example("group_leave", [7], None),
    Example("nack", ["mailer", [[9, 4711]], 5000, "no route to host", False], None),
    Example("nack", ["mailer", [[9, 4711]]], None),
    Example(
        "group_parked",
        ["mailer", 0, 10],
        [[[9, 5, "no route to host", TIME, EVENT_OUT]], False],
    ),
    Example("group_replay", ["mailer", [9]], [1]),
    Example("group_discard", ["mailer"], [3]),
    Example("execute", [TX, [], [], [["ack", "mailer", [[9, 4711]]]]], [COMMITTED, []]),
    Example(
        "execute",
        [
            TX,
            [],
            [],
            [
                ["truncate", ANN, 40],
                ["delete_stream", "cart-7"],
                ["set_retention", "clicks", 1000, 86_400_000_000],
                ["set_retention", "clicks", None, None],
                ["erase", ANN, [1, 2]],
                ["erase_positions", [9]],
                ["erase_ids", ANN, [EVENT_ID]],
            ],
        ],
        [[43, TIME, None, None, {}], []],
    ),
    Example("list_streams", ["account-", None, 2, 42], [42, [[ANN, 41, 40, 2, None, 30]], ANN]),
    Example("list_streams", [], [42, [], None]),
    Example("list_categories", [None, 100], [42, [["account", 50], ["clicks", 9]], None]),
    Example("read_snapshots", [b"account-ann\0", 10, 42], [[], None]),
    Example("subscribe_keys", [BALANCE, BALANCE + b"\xff", 41, 100], None),
    Example("subscribe_keys", [b"", None, 42], None),
    Example("backup", ["2026-11-23"], [42, 9, 1_073_741_824]),
    Example(
        "user_grant",
        [
            "ann",
            [
                ["keys", "read", encode_key(("orders",))],
                ["streams", "append", {"category": "order"}],
                ["group", "mailer"],
            ],
            ["auditor"],
        ],
        None,
    ),
    Example("user_revoke", ["ann", [["admin"], ["backup"], ["replicate"]]], None),
    Example(
        "user_rights",
        ["ann"],
        ["ann", True, ["auditor"], [["streams", "erase", {}], ["group", None]], 5000],
    ),
    Example("user_rights", [], [None, False, [], [], None]),
    Example("role_set", ["auditor", [["streams", "read", {"prefix": "order-2026"}]]], None),
    Example("role_remove", ["auditor"], None),
    Example("role_list", [], [["admin", [["admin"]]], ["auditor", []]]),
    Example("user_verifiers", [], [["ann", bytes(16), 4096, bytes(32), bytes(range(32))]]),
    Example("hold_clock", [TIME], None),
    Example("whoami", [], [17, "ann", "127.0.0.1:50412"]),
    Example("connection_list", [16, 1], [[[17, CONNECTION]], True]),
    Example("connection_close", [17], None),
    Example("newest_position", [None, 0, {"category": "account"}], [42, 9, False]),
    Example("newest_position", [TX], [41, 0, False]),
    Example("audit_read", [100], [[TIME, "logged in", "ann", "10.0.0.1:4711", {}]]),
    Example("load", [None, ANN, "balance", 1, 2], [42, 3, None, [EVENT_OUT], False, 1]),
    Example("get_entry", [None, BALANCE], [b"\x5a", TIME + 60_000_000, TIME]),
    Example("get_entry", [TX, BALANCE], None),
    Example("get_expiry", [None, BALANCE], [TIME + 60_000_000, TIME]),
    Example("get_expiry", [None, BALANCE, 7], [None, TIME]),
    Example("scan_expiries", [None, b"", None, 10], [42, [BALANCE, TIME + 60_000_000], False]),
    Example(
        "write",
        [TX, [["put", BALANCE, b"\x5a"], ["expire", BALANCE, 60_000_000, None]]],
        None,
    ),
    Example("conflicts", [TX, 20], [REFUSED]),
    Example("conflicts", [], []),
    Example("get_many", [None, [BALANCE, b"\x02"]], [42, [b"\x5a", None]]),
    Example("scan_keys", [None, b"", None, 1], [42, [BALANCE], BALANCE + b"\0"]),
    Example("scan_keys", [TX, b"", None, 10, True], [41, [BALANCE], None]),
    Example("count_keys", [None, b"", None], [42, 17, None]),
    Example("scan_prefixes", [None, b"\0", None, 0], [42, [encode_key(("balance",))], None]),
    Example(
        "scan_prefixes",
        [None, b"\x02img/", b"\x02img/\xff", 5, b"/", 1],
        [42, [b"\x02img/2024/"], b"\x02img/20240"],
    ),
    Example(
        "execute",
        [TX, [["compare", BALANCE, "at_least", 50]], [], [["add", BALANCE, -50]]],
        [[42, TIME, None, None, {}], []],
    ),
    Example("stream_version", [None, ANN], [42, 3]),
    Example("stream_version", [TX, ANN], [41, 0]),
    Example("user_limit", ["ann", 5000], None),
    Example("user_limit", ["ann", None], None),
    Example("node", [], ["follower", "headwater://10.0.0.1:4323", 42, 1, 3, 1_500_000]),
    Example("wait_commit", [43, 1000], 43),
    Example("replicate", ["889061ed7aaf5e95", 1, 17, bytes(range(16))], [1, 4, 20]),
    Example("log_read", ["889061ed7aaf5e95", 17], [[b"the packed entry 18"], 18, 42, TIME, TIME]),
    Example("log_read", ["889061ed7aaf5e95", 18, 65536, 1000], [[], 18, 42, TIME, TIME]),
    Example(
        "copy_begin",
        ["889061ed7aaf5e95"],
        [
            TX,
            b'{"format": 4}\n',
            bytes(16),
            40,
            9,
            15,
            1,
            bytes(range(16)),
            16,
            [["events", "00000000000000000001.events", 4096]],
        ],
    ),
    Example("copy_read", [TX, 0, 0, 4096], b"the first bytes"),
    Example("promote", [], [4_294_967_296, 42]),
    Example("find_event", [EVENT_ID], [42, EVENT_OUT]),
    Example("find_event", [TX, 41], [41, None]),
    Example("read_at_least", [43, ["get", BALANCE, None]], [43, 1, b"\x5a"]),
    Example("read_at_least", [43, ["commit_at", TIME], 500], [44, 1, 42]),
    Example(
        "key_history",
        [BALANCE],
        [
            42,
            [[42, TIME, "ann", None, True], [40, TIME, None, b"\x5a", False]],
            False,
            7,
        ],
    ),
    Example("key_history", [BALANCE, 40, 1, 41], [41, [[2, None, None, b"\x07", False]], True, 7]),
    Example("stream_history", [ANN], [42, 3, [EVENT_OUT], ["ann"], True]),
    Example("stream_history", [ANN, 3, 100, 42], [42, 3, [], [], False]),
    Example(
        "read_commit",
        [42],
        [42, TX, TIME, "ann", 9, 1, 2, [[ANN, "balance", 1, 3]], {"snapshots": 1}],
    ),
    Example("read_commit", [3], [3, TX, TIME, None, 0, 0, None, None, None]),
    Example(
        "commit_changes",
        [42, b"", None],
        [[[BALANCE, b"\x64", b"\x5a", False], [b"\x01k\0", b"\x07", None, True]], None],
    ),
    Example("commit_changes", [42, b"", None, 1], [[[BALANCE, None, b"\x5a", False]], b"\x02z\0"]),
    Example("count_commits", [], [[0, TIME - 1, 0], [42, TIME, 9]]),
    Example("count_commits", ["commits", 20, 42, 2], [[20, TIME, 3], [31, TIME, 6], [42, TIME, 9]]),
    Example("known_span", [], [[1, TIME], [7, TIME], [42, TIME]]),
    Example("position_at", [42], 9),
    Example("list_snapshots", [ANN], [42, [["balance", 1, 2, 40, TIME, 1]], None]),
    Example("list_snapshots", [ANN, b"account-ann\0", 10, 42], [42, [], None]),
    Example(
        "scan_branches",
        [b"", None, 0],
        [
            42,
            [[encode_key(("balance",)), False, 100, True], [encode_key((7,)), True, 0, False]],
            None,
        ],
    ),
    Example(
        "scan_branches",
        [encode_key(("balance",)) + b"\0", encode_key(("balance",)) + b"\xff", 9, b"/", 10, 1, 42],
        [42, [[BALANCE, True, 0, False]], BALANCE + b"\0"],
    ),
    Example(
        "describe_streams",
        [],
        [42, [[ANN, 3, 1, None, None, 1, [9, TIME, "Withdrawn"]]], None],
    ),
    Example("describe_streams", ["cart-", "cart-7", 10, 42], [42, [], None]),
    Example("read_commits", [43, 1, True], [[42, TX, TIME, None, 9, 1]]),
    Example("group_info", ["mailer", 41], {"name": "mailer", "position": 8, "members": 0}),
    Example("group_list", [41], [["mailer", 8, 0, 1]]),
    Example("group_parked", ["mailer", 0, 10, 41], [[], False]),
    Example("group_extend", ["mailer", [[9, 4711], [10, 4712]]], [30000, [4712]]),
    Example(
        "cluster_status",
        [],
        {"node": "a1", "problem": None, "nodes": [], "stream": {"name": "log", "answers": False}},
    ),
    Example("cluster_resign", [], None),
    Example("trace", ["00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", 2], None),
]

RESPONSES: Final[list[tuple[str, list[Any]]]] = [
    ("a push of events", [7, PUSH, ["events", [EVENT_OUT]]]),
    (
        "a push: two changes of one commit; more of it follows",
        [7, PUSH, ["changes", [[42, [[BALANCE, None, b"\x5a"], [BALANCE, b"\x5a", None]], True]]]],
    ),
    ("a push: the newest event was pushed", [7, PUSH, ["caught_up", 9]]),
    ("a push: reading the log again", [7, PUSH, ["fell_behind", 9]]),
    ("a push of deliveries", [7, PUSH, ["deliveries", [[4711, 1, EVENT_OUT]]]]),
    ("a push: deliveries that were taken back", [7, PUSH, ["lost", [4711]]]),
    (
        "the last push",
        [7, PUSH, ["ended", ["shutting_down", "the server is going down", True, {}]]],
    ),
    (
        "a conflict, with its details",
        [
            7,
            ERROR,
            [
                "conflict",
                "1 conflict",
                True,
                {
                    "conflicts": [
                        {"kind": "read-write", "key": BALANCE, "commit": 42, "transaction": TX}
                    ]
                },
            ],
        ],
    ),
    (
        "an error of the whole connection",
        [0, ERROR, ["protocol_error", "frame of 0 bytes; allowed are 1 to 16777216", False, {}]],
    ),
    ("the largest request id", [2**32 - 1, OK, None]),
]


def _framed(body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + body


@dataclass(frozen=True)
class Wrong:
    """Bytes that a server in READY must refuse, and the id and code of its error."""

    why: str
    sent: bytes
    request_id: int
    code: str
    closes: bool


WRONG: Final = [
    Wrong("a size of 0", bytes(4), 0, "protocol_error", True),
    Wrong("a size above the bound", b"\x01\x00\x00\x01", 0, "protocol_error", True),
    *(
        Wrong(why, _framed(bytes.fromhex(body)), request_id, "protocol_error", True)
        for why, body, request_id in (
            ("a body that is no array", "07", 0),
            ("an array without an operation", "9107", 7),
            ("an operation that is no str", "9207c40470696e67", 7),
            ("the request id 0", "9200a470696e67", 0),
            ("a request id that is no int", "92a137a470696e67", 0),
            ("a request id above u32", "92cf0000000100000000a470696e67", 0),
            ("a body that ends too early", "9207a4", 7),
            ("bytes after the array", "9207a470696e6700", 7),
            ("a byte that is no msgpack", "9307a470696e67c1", 7),
            ("an array that claims 2^32 - 1 members", "ddffffffff", 0),
            ("a map that claims 2^32 - 1 members", "9307a470696e67dfffffffff", 7),
            ("a bin that claims 2^32 - 1 bytes", "9307a470696e67c6ffffffff", 7),
            ("nesting of 17", "9307a470696e67" + "91" * 16 + "c0", 7),
            ("an extension type", "9307a470696e67d40100", 7),
            ("a timestamp", "9307a470696e67d6ff00000000", 7),
            ("a map key that is an int", "9507a8726561645f616c6cc0008101c0", 7),
            ("a str that is not UTF-8", "9307a470696e67a1ff", 7),
            ("hello a second time", "9307a568656c6c6f01", 7),
        )
    ),
    *(
        Wrong(why, _framed(bytes.fromhex(body)), 7, code, False)
        for why, body, code in (
            ("an unknown operation", "9307a4696e6372c4016b", "unknown_operation"),
            ("an argument too many", "9307a470696e6700", "invalid_argument"),
            ("an argument too few", "9307a3676574c0", "invalid_argument"),
            ("a key that is str", "9407a3676574c0a16b", "invalid_argument"),
            ("a key of no bytes", "9407a3676574c0c400", "invalid_argument"),
            ("a transaction id of 1 byte", "9307a5626567696ec40100", "invalid_argument"),
            ("a bool where an int is wanted", "9307a9636f6d6d69745f6174c3", "invalid_argument"),
            (
                "a filter with an unknown member",
                "9507a8726561645f616c6cc00081a374616701",
                "invalid_argument",
            ),
        )
    ),
]
