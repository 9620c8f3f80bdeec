"""Headwater: keys, event streams and snapshots in one transaction.

    async with headwater.connect("headwater://localhost:4323") as db:     # trio or asyncio
        async with db.transaction() as tx:
            balance = await tx.get(("balance", "ann"), default=0)
            tx.put(("balance", "ann"), balance - 10)
            tx.append("account-ann", [headwater.Event("Withdrawn", {"amount": 10})])

    with headwater.connect_blocking("headwater://localhost:4323") as db:  # no await
        ...

All that an application needs is in this module.
"""

from headwater.accounts.conflicts import RefusedTransaction
from headwater.accounts.connections import ConnectionInfo, Connections, WhoAmI
from headwater.accounts.nodes import NodeInfo, Pong
from headwater.accounts.rights import AuditRecord, Rights, UserRights
from headwater.aggregates.aggregates import Aggregate, Aggregates, Decided
from headwater.aggregates.blocking_aggregates import BlockingAggregates
from headwater.aggregates.repository import Repository
from headwater.blocking.connections import BlockingConnections
from headwater.blocking.database import BlockingDatabase
from headwater.blocking.delivery import BlockingDelivery
from headwater.blocking.groups import BlockingGroups
from headwater.blocking.handlers import BlockingProjectionTransaction
from headwater.blocking.membership import BlockingMembership
from headwater.blocking.models import BlockingModel, BlockingReadModel
from headwater.blocking.past import BlockingPast
from headwater.blocking.projections import BlockingProjections
from headwater.blocking.rights import BlockingRights
from headwater.blocking.running_projections import RunningProjections
from headwater.blocking.subscription import BlockingKeyFeed, BlockingSubscription
from headwater.blocking.transaction import BlockingTransaction
from headwater.causation import Cause, cause, current_cause
from headwater.codecs.codec import Codec, MsgpackCodec, RawCodec
from headwater.codecs.event_types import EventTypes, TypedCodec
from headwater.connecting import connect, connect_blocking
from headwater.database import Database
from headwater.encryption.blocking_encryption import BlockingEncryption
from headwater.encryption.encryption import Encryption, Sealing
from headwater.encryption.sealing import Shredded
from headwater.errors import (
    AuthenticationFailed,
    BackupFailed,
    CommitNotReached,
    CommitUnknown,
    ConditionFailed,
    Conflict,
    ConnectionClosed,
    ConnectionLost,
    DamagedFile,
    DeliveryLost,
    DirectoryInUse,
    DuplicateEvent,
    FormatTooNew,
    GroupExists,
    HeadwaterError,
    HistoryGone,
    InternalError,
    InvalidArgument,
    LockLost,
    NoSuchCommit,
    NoSuchEvent,
    NoSuchGroup,
    NotANumber,
    NotLeader,
    PermissionDenied,
    PositionNotReached,
    ProjectionBehind,
    ProtocolError,
    ReadOnly,
    RebuildRefused,
    ShuttingDown,
    StreamTruncated,
    TimedOut,
    TooLarge,
    TooMany,
    TransactionAborted,
    TransactionForgotten,
    TransactionGone,
    Unavailable,
    Undecodable,
    UnknownOperation,
    WrongVersion,
)
from headwater.feeds.items import CaughtUp, Changes, EventBatch, FellBehind
from headwater.feeds.key_feed import KeyFeed
from headwater.feeds.subscription import Subscription
from headwater.groups.administration import GroupInfo, Groups, GroupSummary, ParkedEvent
from headwater.groups.delivery import Delivery
from headwater.groups.membership import Membership
from headwater.locks.lock import Lock
from headwater.projections.models import Model, ReadModel
from headwater.projections.projections import Projections, ProjectionStatus
from headwater.projections.state import ParkedStream, ProjectionTransaction
from headwater.reads.commit_reads import (
    CommitContents,
    CommitMark,
    KnownCommit,
    KnownSpan,
    WrittenSnapshot,
)
from headwater.reads.history_pages import (
    Branch,
    DescribedStream,
    KeyVersion,
    SnapshotInfo,
    StreamEntry,
)
from headwater.reads.key_changes import KeyChange
from headwater.reads.key_ranges import KeyRange
from headwater.reads.listing import CategoryInfo, StreamInfo
from headwater.reads.past import Past
from headwater.reads.query import Criterion, Filter, Query
from headwater.records import (
    Backup,
    CommitRecord,
    Committed,
    Entry,
    Event,
    Loaded,
    RecordedEvent,
    Snapshot,
    StoredSnapshot,
    TransactionStatus,
)
from headwater.transactions.batch import Batch, Executed, Page
from headwater.transactions.range_deletion import DeletedRange
from headwater.transactions.transaction import Isolation, Transaction
from headwater_protocol.address import Address
from headwater_protocol.grants import Grant, group_grant, keys_grant, streams_grant
from headwater_protocol.keys import Key
from headwater_protocol.numbers import (
    ANY,
    NO_STREAM,
    STREAM_EXISTS,
    CommitNumber,
    Position,
    StreamVersion,
)

__all__ = [
    "BlockingEncryption",
    "Encryption",
    "Sealing",
    "Shredded",
    "Cause",
    "cause",
    "current_cause",
    "StreamEntry",
    "SnapshotInfo",
    "KeyVersion",
    "DescribedStream",
    "Branch",
    "WrittenSnapshot",
    "KnownSpan",
    "KnownCommit",
    "CommitMark",
    "CommitContents",
    "AuditRecord",
    "BlockingConnections",
    "BlockingRights",
    "Grant",
    "Rights",
    "UserRights",
    "group_grant",
    "keys_grant",
    "streams_grant",
    "ANY",
    "NO_STREAM",
    "STREAM_EXISTS",
    "Address",
    "Aggregate",
    "Aggregates",
    "AuthenticationFailed",
    "Backup",
    "BackupFailed",
    "Batch",
    "CategoryInfo",
    "Changes",
    "BlockingAggregates",
    "BlockingDatabase",
    "BlockingModel",
    "BlockingDelivery",
    "BlockingGroups",
    "BlockingMembership",
    "BlockingPast",
    "BlockingProjectionTransaction",
    "BlockingProjections",
    "BlockingReadModel",
    "BlockingKeyFeed",
    "BlockingSubscription",
    "BlockingTransaction",
    "CaughtUp",
    "Codec",
    "CommitNumber",
    "CommitRecord",
    "CommitNotReached",
    "CommitUnknown",
    "Committed",
    "ConditionFailed",
    "Conflict",
    "ConnectionClosed",
    "ConnectionInfo",
    "Connections",
    "ConnectionLost",
    "DamagedFile",
    "DeletedRange",
    "Delivery",
    "DeliveryLost",
    "Criterion",
    "Database",
    "Decided",
    "DirectoryInUse",
    "DuplicateEvent",
    "Entry",
    "Event",
    "EventBatch",
    "EventTypes",
    "Executed",
    "FellBehind",
    "Filter",
    "FormatTooNew",
    "GroupExists",
    "GroupInfo",
    "GroupSummary",
    "Groups",
    "HeadwaterError",
    "HistoryGone",
    "KeyChange",
    "KeyFeed",
    "KeyRange",
    "InternalError",
    "InvalidArgument",
    "Isolation",
    "Key",
    "Loaded",
    "Model",
    "Membership",
    "MsgpackCodec",
    "Lock",
    "LockLost",
    "NoSuchCommit",
    "NoSuchEvent",
    "NoSuchGroup",
    "NodeInfo",
    "NotANumber",
    "NotLeader",
    "ParkedEvent",
    "ParkedStream",
    "Past",
    "Page",
    "PermissionDenied",
    "PositionNotReached",
    "ProjectionBehind",
    "Pong",
    "Position",
    "ProjectionStatus",
    "ProjectionTransaction",
    "Projections",
    "ProtocolError",
    "Query",
    "RawCodec",
    "ReadModel",
    "ReadOnly",
    "RebuildRefused",
    "RefusedTransaction",
    "RecordedEvent",
    "Repository",
    "RunningProjections",
    "ShuttingDown",
    "StreamTruncated",
    "Snapshot",
    "StoredSnapshot",
    "StreamInfo",
    "StreamVersion",
    "Subscription",
    "TimedOut",
    "TooLarge",
    "TooMany",
    "Transaction",
    "TransactionAborted",
    "TransactionForgotten",
    "TransactionGone",
    "TransactionStatus",
    "TypedCodec",
    "Undecodable",
    "Unavailable",
    "UnknownOperation",
    "WrongVersion",
    "connect",
    "connect_blocking",
    "WhoAmI",
]
