"""Every limit of the protocol, with its unit and its reason.

These are the limits that both sides must know. Limits of the server alone (open transactions,
idle times) are settings of the server. Data above a limit is refused before memory is spent on it;
the error tells the value and the limit.
"""

from typing import Final

KIB: Final = 1024
MIB: Final = 1024 * KIB

PORT_DEFAULT: Final = 4323
"""Default TCP port of a server."""

PROTOCOL_VERSION: Final = 1
"""Version of the protocol. The server's answer to hello has the version that it will use."""

BODY_SIZE_MAX: Final = 16 * MIB
"""Bytes in the body of a frame. It is large enough for the largest value with the message around
it, and small enough to bound what a hostile connection can make a server buffer. A body is buffered
as it arrives and never allocated in advance."""

HELLO_BODY_SIZE_MAX: Final = 16 * KIB
"""Bytes in the body of a frame before authentication, so that a client without a user cannot make
the server buffer 16 MiB."""

DEPTH_MAX: Final = 16
"""Levels of nested arrays and maps in a body. The deepest message has seven."""

MEMBERS_MAX: Final = 100_000
"""Members of one array or map in a body. No argument may have more."""

REQUEST_ITEMS_MAX: Final = 2_000_000
"""Values in the body of a request, over all its arrays and maps. Each takes about 64 bytes of the
receiver's memory, even if it is one byte on the wire. The largest transaction has about a
million."""

RESPONSE_ITEMS_MAX: Final = 8_000_000
"""Values in the body of a response. A full response of the smallest keys and values has 6.7
million."""

STR_SIZE_MAX: Final = 64 * KIB
"""Bytes of any str in a body. Names are much shorter; long data is bin."""

ERROR_MESSAGE_MAX: Final = 4096
"""Characters of an error's message."""

UNSCANNED_MEMBERS_MAX: Final = 4096
"""Members of one array or map in a body that is decoded without scanning its headers first. The
decoder itself allows 1024 levels and allocates 8 bytes for each announced member: at most 32 MiB,
until it finds that the members are missing."""

REQUEST_UNSCANNED_SIZE_MAX: Final = 64 * KIB
"""Bytes of a request that a server decodes without scanning it first. In the worst case each byte
becomes an empty list of 64 bytes."""

RESPONSE_UNSCANNED_SIZE_MAX: Final = 2 * MIB
"""Bytes of a response that a client decodes without scanning it first. A page fits. A client trusts
its server more than a server trusts its clients: it chose the server, and SCRAM authenticates
it."""

REQUEST_ID_MAX: Final = 2**32 - 1
"""Request ids are u32 from 1, chosen by the client, which may reuse one after its answer. Id 0 is
for errors of the server that belong to no request."""

KEY_SIZE_MAX: Final = 8 * KIB
"""Bytes of an encoded key. Each key is stored several times (state, history, changes, read
sets)."""

VALUE_SIZE_MAX: Final = 8 * MIB
"""Bytes of a value, of an event's data, of its metadata, and of a snapshot's state."""

EVENT_SIZE_MAX: Final = 15 * MIB
"""Bytes of an event's data, metadata and tags together. A larger event could be written but not
read, since it would not fit into the frame of an answer."""

STREAM_NAME_SIZE_MAX: Final = 512
"""UTF-8 bytes of a stream's name and of a category, which is a prefix of it."""

NAME_SIZE_MAX: Final = 256
"""UTF-8 bytes of all other names: event types, snapshot names, users, clients."""

WRITES_MAX: Final = 100_000
"""Writes in one transaction. Each key that a range delete removes counts as one."""

RANGE_DELETES_MAX: Final = 1_000
"""Range deletes in one transaction. Each item that the transaction reads is compared with all."""

TAGS_MAX: Final = 64
"""Tags of one event, and of one criterion. Each tag of an event adds an entry to an index."""

TAG_SIZE_MAX: Final = 256
"""UTF-8 bytes of a tag, as of other names. It is part of a key of the index."""

EVENTS_MAX: Final = 100_000
"""Events in one transaction. All of them are numbered while no other request is served."""

ERASED_MAX: Final = 10_000
"""Events that one transaction may erase. All other requests wait while these events are looked
up."""

TRANSACTION_SIZE_MAX: Final = 32 * MIB
"""Bytes that one transaction may write: keys, values and events, plus up to 64 bytes for each.
While it commits, they are in memory several times."""

CONDITIONS_MAX: Final = 10_000
"""Conditions in one execute. All are checked while no other request is served."""

READS_MAX: Final = 10_000
"""Reads in one execute. All are done while no other request is served."""

PAGE_ITEMS_MAX: Final = 10_000
"""Items in one page of a scan or of events. The client requests page after page, and others get
their turn in between."""

PAGE_SIZE_MAX: Final = 1 * MIB
"""Bytes in a page. An item that is larger than this gets a page of its own."""

TYPES_MAX: Final = 1_000
"""Event types in one filter. Each event that it looks at is compared with them."""

CRITERIA_MAX: Final = 100
"""Criteria in one query. An event that it looks at may be compared with each."""

QUERY_NAMES_MAX: Final = 1_000
"""Types and tags in one query, over all its criteria. Each costs an index look-up."""

SLICES_MAX: Final = 256
"""Slices in one count of commits. Each is found by a binary search."""

BRANCH_COUNT_MAX: Final = 1_000
"""Keys that are counted in one branch of a tree of keys. All of them are read."""

DESCRIBED_MAX: Final = 250
"""Streams in one page with their newest events. Each takes several look-ups: 15 ms for all."""

CREDIT_MAX: Final = 1_000_000
"""Credit of a subscription: events that the client has granted and not received yet."""

GROUPS_MAX: Final = 1_000
"""Consumer groups of a database. Each group with members keeps some thousand positions in
memory."""

GROUP_MEMBERS_MAX: Final = 1_000
"""Members of one consumer group. The server searches all of them for the receiver of a delivery."""

DELIVERIES_MAX: Final = 10_000
"""Deliveries in one ack, nack, replay or discard, and unsettled deliveries of one member. Each
stays in memory until it is settled."""

LEASE_MS_MIN: Final = 100
"""Milliseconds of the shortest lease. A shorter one could expire before the delivery arrives."""

LEASE_MS_MAX: Final = 24 * 3600 * 1000
"""Milliseconds of the longest lease. A consumer that is silent for a day is considered dead."""

ATTEMPTS_MAX: Final = 1_000
"""Largest `attempts_max` of a group: deliveries of an event before it is parked. Whoever wants more
wants 0, which is no limit."""

RETRY_MS_MAX: Final = 7 * 24 * 3600 * 1000
"""Longest delay before the next attempt at an event, in milliseconds."""

REASON_SIZE_MAX: Final = 1 * KIB
"""UTF-8 bytes of the reason that a nack gives."""

BACKUP_NAME_SIZE_MAX: Final = 100
"""Characters of a backup's name. The name of its temporary directory is longer, and must be valid
on every file system."""

WAIT_MS_MAX: Final = 60_000
"""Milliseconds that a request may ask to wait for a commit or for an entry of the log."""

GRANTS_MAX: Final = 1_000
"""Grants of one user, or of one role. Every change of them writes all of them again."""

ROLES_MAX: Final = 100
"""Roles of one user, and roles that a database defines. The server merges the grants of a user's
roles at each log-in and each change."""

NUMBER_MAX: Final = 2**63 - 1
"""Largest commit number, position, version and time (in microseconds) on the wire."""

CONFLICTS_LISTED_MAX: Final = 256
"""Refused transactions in one answer to `conflicts`, and as many the server remembers."""
GET_MANY_MAX: Final = 10_000
"""Keys in one request for several values."""

TRACE_SIZE_MAX: Final = 64
"""UTF-8 bytes of a traceparent. The form that W3C Trace Context defines today has 55."""

TRACED_REQUESTS_MAX: Final = 4096
"""Requests that one `trace` covers. A client sends those of one call together."""
