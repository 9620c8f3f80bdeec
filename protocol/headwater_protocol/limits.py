"""Every bound of the protocol, with its unit and its reason.

A bound that both sides must know stands here; one that only the server keeps (open
transactions, idle times) is a setting of the server. A peer that crosses a bound is told the
value and the bound, before memory is spent on what it sent.
"""

from typing import Final

KIB: Final = 1024
MIB: Final = 1024 * KIB

PORT_DEFAULT: Final = 4323
"""TCP port of a server that was not told another."""

PROTOCOL_VERSION: Final = 1
"""Version of the vocabulary. A server answers hello with the version that it will speak."""

BODY_SIZE_MAX: Final = 16 * MIB
"""Bytes of one frame's body. Large enough for the largest value and its envelope; small enough
that a thousand hostile connections cannot each make us hold much: a body is buffered as it
comes, never allocated ahead."""

HELLO_BODY_SIZE_MAX: Final = 16 * KIB
"""Bytes of a frame before authentication: a stranger may not make us buffer 16 MiB."""

DEPTH_MAX: Final = 16
"""Nesting of arrays and maps in one body. The deepest message of the vocabulary has seven."""

MEMBERS_MAX: Final = 100_000
"""Members of one array or map in a body. No list of the vocabulary may have more."""

REQUEST_ITEMS_MAX: Final = 2_000_000
"""Values in the body of a request, over all its arrays and maps. Each costs its receiver about
64 bytes of memory, however few it took on the wire; a full transaction has about a million."""

RESPONSE_ITEMS_MAX: Final = 8_000_000
"""Values in the body of a response. Nothing but the smallest keys and values are 6.7 million."""

STR_SIZE_MAX: Final = 64 * KIB
"""Bytes of any str in a body. Names are shorter by far; what is long is bin."""

ERROR_MESSAGE_MAX: Final = 4096
"""Characters of an error's message."""

UNSCANNED_MEMBERS_MAX: Final = 4096
"""Members of one array or map in a body that is decoded without a scan of its headers first.
The decoder nests to 1024 on its own, each level claiming 8 bytes a member: 32 MiB at worst, for
the moment until it finds that the members are not there."""

REQUEST_UNSCANNED_SIZE_MAX: Final = 64 * KIB
"""Bytes of a request that a server decodes without a scan first: at worst, one byte becomes an
empty list of 64 bytes."""

RESPONSE_UNSCANNED_SIZE_MAX: Final = 2 * MIB
"""Bytes of a response that a client decodes without a scan first. A page fits in; a client
chose its server, and knows it by SCRAM."""

REQUEST_ID_MAX: Final = 2**32 - 1
"""Request ids are u32, from 1, chosen by the client; it may use one again once it was answered.
0 is for the server's errors that belong to no request."""

KEY_SIZE_MAX: Final = 8 * KIB
"""Bytes of an encoded key. Keys are kept several times (state, history, changes, read sets)."""

VALUE_SIZE_MAX: Final = 8 * MIB
"""Bytes of a value, of an event's data and metadata each, and of a snapshot's state."""

EVENT_SIZE_MAX: Final = 15 * MIB
"""Bytes of an event's data, metadata and tags together: it must fit a frame with what stands
around it, or it could be written and never read."""

STREAM_NAME_SIZE_MAX: Final = 512
"""UTF-8 bytes of a stream's name, and of a category, which is a prefix of one."""

NAME_SIZE_MAX: Final = 256
"""UTF-8 bytes of every other name: event types, snapshot names, users, clients."""

WRITES_MAX: Final = 100_000
"""Writes in one transaction, counting each key that a range delete removes."""

RANGE_DELETES_MAX: Final = 1_000
"""Range deletes in one transaction: each is looked through for every item that it reads."""

TAGS_MAX: Final = 64
"""Tags of one event, and tags in one criterion. Each tag of an event is an entry of an index."""

TAG_SIZE_MAX: Final = 256
"""UTF-8 bytes of a tag."""

EVENTS_MAX: Final = 100_000
"""Events in one transaction."""

ERASED_MAX: Final = 10_000
"""Events that one transaction may erase: each is looked up while everybody else waits."""

TRANSACTION_SIZE_MAX: Final = 32 * MIB
"""Bytes that one transaction may write: keys, values and events. It stands in memory several
times while it is committed."""

CONDITIONS_MAX: Final = 10_000
"""Conditions in one execute."""

READS_MAX: Final = 10_000
"""Reads in one execute."""

PAGE_ITEMS_MAX: Final = 10_000
"""Items in one page of a scan or of events; a client asks again for what follows."""

PAGE_SIZE_MAX: Final = 1 * MIB
"""Bytes after which a page ends. One item larger than this is a page of its own."""

TYPES_MAX: Final = 1_000
"""Event types in one filter."""

CRITERIA_MAX: Final = 100
"""Criteria in one query."""

QUERY_NAMES_MAX: Final = 1_000
"""Types and tags in one query, over all its criteria. Each is looked up in an index."""

CREDIT_MAX: Final = 1_000_000
"""Events that a subscriber may allow ahead, over all that it granted and did not get yet."""

GROUPS_MAX: Final = 1_000
"""Consumer groups of a database. Each that has members keeps some thousand positions in memory."""

GROUP_MEMBERS_MAX: Final = 1_000
"""Members of one consumer group. Whom a delivery goes to is looked for among all of them."""

DELIVERIES_MAX: Final = 10_000
"""Deliveries in one acknowledgement, nack, replay or discard, and those that a member may hold:
each is kept in memory until it is settled."""

LEASE_MS_MIN: Final = 100
"""Milliseconds of the shortest lease: a shorter one would run out on the way."""

LEASE_MS_MAX: Final = 24 * 3600 * 1000
"""Milliseconds of the longest lease: a consumer that is silent for a day is gone."""

ATTEMPTS_MAX: Final = 1_000
"""The largest number of attempts after which a group can be told to park an event."""

RETRY_MS_MAX: Final = 7 * 24 * 3600 * 1000
"""Milliseconds that an event may be told to wait for its next attempt."""

REASON_SIZE_MAX: Final = 1 * KIB
"""UTF-8 bytes of the reason why an event is given back or parked."""

BACKUP_NAME_SIZE_MAX: Final = 100
"""Characters of a backup's name: with what is put around it while the backup is made, it must be
a name that every file system takes."""

NUMBER_MAX: Final = 2**63 - 1
"""Largest commit number, position, version or time in microseconds on the wire."""
