"""Planted defects: they show that the simulation detects bugs.

Each mutant is a bug that a database like this could have, as a patch in this module, in
fast_paths.py or in guarantees.py. It has a regular expression for the problem that must be
reported, and the kind of world in which it must be. A mutant that no check detects shows a gap in
the simulation:

    python -m tests.simulation.mutants            all of them (make mutants)
    python -m tests.simulation.mutants "a name"   one
"""

import argparse
import os
import re
import sys
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from multiprocessing import get_context
from typing import Any, Final

# Defects are planted into the sources. This must be set before our modules are imported, see
# headwater_protocol/compiled.py.
os.environ["HEADWATER_PURE"] = "1"

from headwater.errors import ConnectionLost
from headwater.feeds import subscription as client_subscription
from headwater.identifiers import new_transaction_id
from headwater.transport.channel import Channel
from headwater_server.engine.checkpoint import checkpoint, version_writer
from headwater_server.engine.checkpoint.state_writer import StateWriter
from headwater_server.engine.consumer_groups import progress
from headwater_server.engine.consumer_groups.groups import Groups
from headwater_server.engine.consumer_groups.progress import GroupProgress
from headwater_server.engine.consumer_groups.streams import StreamProgress
from headwater_server.engine.engine import Engine
from headwater_server.engine.format.index_keys import TAG
from headwater_server.engine.reads.reading import Reader
from headwater_server.engine.retention import rewriting
from headwater_server.engine.retention.rewriting import Rewriting
from headwater_server.engine.retention.rules import Visibility
from headwater_server.engine.retention.writes import RetentionEvaluator
from headwater_server.engine.state.layers import State
from headwater_server.engine.state.masks import Retention
from headwater_server.engine.transactions import appending, planning, validation
from headwater_server.engine.transactions.sequencer import Sequencer, Ticket
from headwater_server.engine.transactions.transaction import Transaction
from headwater_server.net.push import feeds
from headwater_server.net.session import session
from headwater_server.storage.commits.commit_log import CommitLog
from headwater_server.storage.events.event_log import EventLog
from headwater_server.storage.files import directory
from headwater_server.storage.log.segmented_log import SegmentedLog
from headwater_server.storage.wal import file_write_ahead_log
from headwater_server.storage.wal.file_write_ahead_log import FileWriteAheadLog
from tests.replication.world import run_world as run_nodes
from tests.simulation.determinism import replaced
from tests.simulation.disk import SimulatedDisk, SimulatedStore
from tests.simulation.fast_paths import FAST_PATHS
from tests.simulation.guarantees import GUARANTEES
from tests.simulation.leases import EXPIRIES
from tests.simulation.nodes import NODES
from tests.simulation.plan import draw
from tests.simulation.planted import (
    CONSUMED,
    FEED,
    ISOLATION,
    LOSS,
    VISIBLE,
    WRONG_READ,
    Mutant,
    constant,
    nothing,
)
from tests.simulation.world import run_world

WORLDS_MAX: Final = 150
"""Number of worlds within which a mutant must be detected."""

# Isolation.


def ignoring_pending_commits(right: Any) -> Any:
    def commit(self: Sequencer, *arguments: Any) -> Ticket:
        def find(*given: Any, **named: Any) -> list[dict[str, Any]]:
            found = validation.find_conflicts(*given, **named)
            return [each for each in found if each["commit"] <= self.published]

        with replaced(planning, "find_conflicts", find):
            ticket: Ticket = right(self, *arguments)
            return ticket

    return commit


def without_write_conflicts(right: Any) -> Any:
    def find(state: Any, transaction: Any, *arguments: Any) -> Any:
        return [] if transaction.read_set is None else right(state, transaction, *arguments)

    return find


def returned_keys_only(right: Any) -> Any:
    def scan(self: Transaction, start: bytes, end: Any, limit: int, reverse: bool) -> Any:
        with replaced(Transaction, "_register_range", nothing(None)):
            page = right(self, start, end, limit, reverse)
        for key in page.items[::2]:
            self._register_key(b"\x01" + key)
        return page

    return scan


def without_tags(right: Any) -> Any:
    def write_names(self: StateWriter, kind: bytes, names: Any) -> None:
        if kind != TAG:
            right(self, kind, names)

    return write_names


def reading_before_durability(right: Any) -> Any:
    def begin(self: Engine, transaction: bytes, **named: Any) -> Any:
        begun = right(self, transaction, **named)
        if named.get("at_commit") is None:
            begun.view, begun.position = self._state.last_commit, self._state.last_position
        return begun

    return begin


def one_commit_later(right: Any) -> Any:
    def position_at(self: State, commit: int) -> int:
        position: int = right(self, min(commit + 1, self.last_commit))
        return position

    return position_at


def ignoring_the_horizon(_: Any) -> Any:
    def position_at(self: Engine, commit: int) -> int:
        return self._state.position_at(min(commit, self.published))

    return position_at


# Durability.


def without_waiting(_: Any) -> Any:
    def answer(self: Any, request_id: int, ticket: Any, encode: Any) -> Any:
        return self._encode(request_id, ticket.transaction, encode)

    return answer


def publishing_too_early(right: Any) -> Any:
    def take(self: Sequencer) -> Any:
        group = right(self)
        if group is not None:
            self.published = group.last_commit
            self.published_position = group.last_position
        return group

    return take


def without_waiting_for_the_first(right: Any) -> Any:
    def again(self: Sequencer, transaction: bytes, commit: int, *rest: Any) -> Ticket:
        ticket: Ticket = right(self, transaction, commit, *rest)
        ticket.sequence = 0
        return ticket

    return again


def trimmed_too_far(right: Any) -> Any:
    def needed(self: Sequencer, sequence: int) -> Any:
        del sequence
        return right(self, self.durable_sequence)

    return needed


# Exactly once.


def forgetting_commits(right: Any) -> Any:
    def transaction(self: State, identity: bytes) -> Any:
        known = right(self, identity)
        return known if known == 0 else None

    return transaction


def without_an_abort_record(_: Any) -> Any:
    def abort(_self: Sequencer, transaction: bytes, _user: int) -> Ticket:
        return Ticket(0, transaction, [])

    return abort


def resending_with_a_new_id(right: Any) -> Any:
    async def persist(self: Any, transaction: bytes, name: str, *arguments: Any) -> Any:
        async def ask(connection: Any) -> Any:
            fresh = new_transaction_id()
            return await connection.ask(name, fresh, *arguments[1:])

        for _ in range(20):
            try:
                return await ask(await self.connection())
            except ConnectionLost:
                await self.runtime.sleep(0.1)
        return await right(self, transaction, name, *arguments)

    return persist


# Subscriptions.


def one_position_too_far(right: Any) -> Any:
    def open_at(self: Any, session: Any, request_id: int, after: int, *rest: Any) -> Any:
        newest = self._source.newest
        return right(self, session, request_id, min(after + 1, newest), *rest)

    return open_at


def skipping_the_batch(right: Any) -> Any:
    def fall_behind(self: Any, subscription: Any) -> None:
        right(self, subscription)
        subscription.position = self._source.newest

    return fall_behind


def one_event_early(right: Any) -> Any:
    async def reopen(self: Any) -> None:
        self._received = max(0, self._received - 1)
        await right(self)

    return reopen


def without_views(right: Any) -> Any:
    def collect(*arguments: Any, **named: Any) -> Any:
        return right(*arguments, **{**named, "views": []})

    return collect


def with_a_higher_version(right: Any) -> Any:
    def newest(self: Reader, stream: str, name: str, schema: int, *versions: int) -> Any:
        found = right(self, stream, name, schema, *versions)
        return None if found is None else (found[0] + 1, found[1])

    return newest


def of_another_schema(right: Any) -> Any:
    def newest(self: Reader, stream: str, name: str, schema: int, *versions: int) -> Any:
        return right(self, stream, name, 3 - schema, *versions)

    return newest


# Consumer groups.


def without_writes(right: Any) -> Any:
    def evaluate(self: Groups, acks: Any) -> Any:
        return [], right(self, acks)[1]

    return evaluate


def at_the_read_position(_: Any) -> Any:
    def low_watermark(self: GroupProgress, aside: Any) -> int:
        return self.read_to

    return low_watermark


# Retention and erasure.


def ignoring_concurrent_commits(right: Any) -> Any:
    def commit(self: Sequencer, transaction: Transaction, *rest: Any) -> Ticket:
        def standing(state: Any, wanted: Any, after: int, budget: Any, own: Any) -> Any:
            found = validation.matching_event(state, wanted, after, budget, own)
            return None if found is None or found["commit"] > transaction.view else found

        with replaced(appending, "matching_event", standing):
            ticket: Ticket = right(self, transaction, *rest)
            return ticket

    return commit


def showing_hidden_events(right: Any) -> Any:
    def read_all(self: Reader, *arguments: Any, **named: Any) -> Any:
        with replaced(Visibility, "shows", lambda _, stored: bool(stored)):
            return right(self, *arguments, **named)

    return read_all


def keeping_snapshots_after_an_erasure(right: Any) -> Any:
    def useless(self: RetentionEvaluator, name: str, stream: Any) -> Any:
        if stream.rule.erased_commit == stream.before.erased_commit:
            yield from right(self, name, stream)

    return useless


def erasing_the_next_event_too(right: Any) -> Any:
    def begin(self: Rewriting) -> Any:
        rewrite = right(self)
        if rewrite is not None:
            rewrite.erased |= {position + 1 for position in rewrite.erased}
        return rewrite

    return begin


def unchanged(_: Any) -> Any:
    return lambda stored: stored


def without_masks(right: Any) -> Any:
    def load(self: Retention, rules: bool, _erasures: Any) -> None:
        right(self, rules, ())

    return load


def ignoring_read_views(right: Any) -> Any:
    def begin(self: Rewriting) -> Any:
        with replaced(self, "_views", list):
            return right(self)

    return begin


MUTANTS: Final[Sequence[Mutant]] = (
    Mutant(
        "conditions on queries ignore concurrent commits",
        Sequencer,
        "commit",
        ignoring_concurrent_commits,
        "on condition of",
        "calm",
    ),
    Mutant(
        "queries are not validated against retention",
        validation,
        "_retention_changed",
        constant(0),
        "not serializable",
        "calm",
    ),
    Mutant(
        "reads of all events show hidden events",
        Reader,
        "read_all",
        showing_hidden_events,
        VISIBLE,
        "calm",
    ),
    Mutant(
        "an erasure keeps snapshots with erased data",
        RetentionEvaluator,
        "_useless_snapshots",
        keeping_snapshots_after_an_erasure,
        VISIBLE,
        "calm",
    ),
    Mutant(
        "a snapshot is used although events after it are hidden",
        Visibility,
        "snapshot_versions",
        constant((0, 2**63)),
        VISIBLE,
        "calm",
    ),
    Mutant(
        "a deleted stream looks truncated",
        Reader,
        "_begins",
        constant(1),
        VISIBLE,
        "calm",
    ),
    Mutant(
        "a rewrite also erases the event after an erased one",
        Rewriting,
        "begin",
        erasing_the_next_event_too,
        VISIBLE + "|subscribed after",
        "calm",
    ),
    Mutant(
        "a rewrite removes events that a read view needs",
        Rewriting,
        "begin",
        ignoring_read_views,
        VISIBLE + "|error",
        "calm",
    ),
    Mutant(
        "a rewrite keeps erased data and unmasks it",
        rewriting,
        "erase_event",
        unchanged,
        VISIBLE,
        "calm",
    ),
    Mutant(
        "a restart forgets erasures",
        Retention,
        "load",
        without_masks,
        VISIBLE + "|changed what is there|subscribed after",
        "crashes",
    ),
    Mutant(
        "ranges are not validated",
        Transaction,
        "_register_range",
        nothing,
        ISOLATION,
        "calm",
    ),
    Mutant(
        "only the keys that a scan returned are validated",
        Transaction,
        "scan",
        returned_keys_only,
        ISOLATION,
        "calm",
    ),
    Mutant("keys are not validated", Transaction, "_register_key", nothing, ISOLATION, "calm"),
    Mutant(
        "reads of streams are not validated",
        Transaction,
        "_register_stream",
        nothing,
        ISOLATION,
        "calm",
    ),
    Mutant(
        "queries are not validated",
        Transaction,
        "_register_query",
        nothing,
        ISOLATION,
        "calm",
    ),
    Mutant(
        "conditions on queries are not checked",
        appending,
        "matching_event",
        nothing,
        "on condition of",
        "calm",
    ),
    Mutant(
        "checkpoints forget the tags",
        StateWriter,
        "_write_names",
        without_tags,
        WRONG_READ + "|on condition of|not serializable|subscribed after|caught up",
        "calm",
    ),
    Mutant(
        "validation ignores pending commits",
        Sequencer,
        "commit",
        ignoring_pending_commits,
        ISOLATION,
        "calm",
    ),
    Mutant(
        "at snapshot isolation writes never conflict",
        planning,
        "find_conflicts",
        without_write_conflicts,
        ISOLATION,
        "calm",
    ),
    Mutant(
        "transactions read commits that are not durable",
        Engine,
        "begin",
        reading_before_durability,
        LOSS,
        "crashes",
    ),
    Mutant(
        "the past is read one commit late",
        State,
        "position_at",
        one_commit_later,
        WRONG_READ,
        "calm",
    ),
    Mutant("the log is not synced", SegmentedLog, "sync", nothing, LOSS, "crashes"),
    Mutant(
        "commits are acknowledged before fsync",
        session.Session,
        "answer_durable",
        without_waiting,
        LOSS,
        "crashes",
    ),
    Mutant(
        "commits are published before fsync",
        Sequencer,
        "take_group",
        publishing_too_early,
        LOSS,
        "crashes",
    ),
    Mutant(
        "a repeated commit is answered before it is durable",
        Sequencer,
        "answer_again",
        without_waiting_for_the_first,
        LOSS,
        "both",
    ),
    Mutant(
        "directories are not synced",
        SimulatedDisk,
        "sync_directory",
        nothing,
        LOSS,
        "crashes",
    ),
    Mutant(
        "an existing directory is assumed to be durable",
        directory,
        "_sync_above",
        nothing,
        LOSS,
        "crashes",
    ),
    Mutant(
        "the last group is not written again at open",
        file_write_ahead_log,
        "_write_again",
        nothing,
        LOSS,
        "sync errors",
    ),
    Mutant(
        "damage always counts as a torn tail",
        FileWriteAheadLog,
        "_is_corruption",
        constant(False),
        LOSS + "|AssertionError",
        "rot",
    ),
    Mutant(
        "checkpoints are not flushed",
        SimulatedStore,
        "flush",
        nothing,
        LOSS,
        "crashes",
    ),
    Mutant("the event log is not synced", EventLog, "sync", nothing, LOSS, "crashes"),
    Mutant("the commit log is not synced", CommitLog, "sync", nothing, LOSS, "crashes"),
    Mutant(
        "the log is trimmed too far",
        Sequencer,
        "log_needed_from",
        trimmed_too_far,
        LOSS,
        "crashes",
    ),
    Mutant(
        "garbage collection ignores read views",
        checkpoint,
        "collect_garbage",
        without_views,
        WRONG_READ,
        "calm",
    ),
    Mutant(
        "a checkpoint drops versions that read views need",
        version_writer,
        "is_needed",
        constant(False),
        WRONG_READ,
        "calm",
    ),
    Mutant(
        "committed transactions are forgetting_commits",
        State,
        "transaction",
        forgetting_commits,
        LOSS,
        "both",
    ),
    Mutant(
        "an abort is not recorded",
        Sequencer,
        "abort",
        without_an_abort_record,
        LOSS,
        "network",
    ),
    Mutant(
        "the client resends a lost write with a new id",
        Channel,
        "persist",
        resending_with_a_new_id,
        LOSS + "|belongs to no attempt",
        "both",
    ),
    Mutant(
        "a subscription begins one position too far",
        feeds.Feeds,
        "open",
        one_position_too_far,
        FEED,
        "calm",
    ),
    Mutant(
        "a subscriber that falls behind misses the current batch",
        feeds.Feeds,
        "_fall_behind",
        skipping_the_batch,
        FEED,
        "calm",
    ),
    Mutant(
        "after a lost connection a client resubscribes one event early",
        client_subscription.Subscription,
        "_reopen",
        one_event_early,
        FEED,
        "both",
    ),
    Mutant(
        "a snapshot is returned with a version too high",
        Reader,
        "_newest_snapshot",
        with_a_higher_version,
        WRONG_READ,
        "calm",
    ),
    Mutant(
        "a load returns a snapshot of another schema",
        Reader,
        "_newest_snapshot",
        of_another_schema,
        WRONG_READ,
        "calm",
    ),
    Mutant(
        "reads below the horizon are allowed",
        Engine,
        "_position_at",
        ignoring_the_horizon,
        WRONG_READ + "|InternalError|internal_error|AssertionError",
        "calm",
    ),
    Mutant(
        "an ack is missing in its transaction's record",
        Groups,
        "evaluate",
        without_writes,
        CONSUMED,
        "crashes",
    ),
    Mutant(
        "the low watermark of a group passes unfinished events",
        GroupProgress,
        "_low_watermark_beside",
        at_the_read_position,
        CONSUMED,
        "crashes",
    ),
    Mutant(
        "a restart forgets the progress of a group's streams",
        progress,
        "read_streams",
        constant([]),
        CONSUMED,
        "crashes",
    ),
    Mutant(
        "a parked event does not hold its stream",
        StreamProgress,
        "is_held",
        constant(False),
        CONSUMED,
        "calm",
    ),
    *FAST_PATHS,
    *GUARANTEES,
    *EXPIRIES,
    *NODES,
)


def hunt(mutant: Mutant, worlds: int = WORLDS_MAX, *, first: int = 1) -> tuple[int, str] | None:
    """The first seed that detects a mutant, and the problem; None if no seed does."""
    found = _hunt(mutant, range(first, first + worlds))
    if found is not None:
        problems = _problems(mutant, found[0])
        assert not problems, f"seed {found[0]} has problems without the mutant too: {problems}"
    return found


def _problems(mutant: Mutant, seed: int) -> Sequence[str]:
    if mutant.kind == "nodes":
        return run_nodes(seed)
    return run_world(draw(seed, mutant.kind)).problems


def _hunt(mutant: Mutant, seeds: Iterable[int]) -> tuple[int, str] | None:
    strange = ""
    with ExitStack() as patched:
        wrong = mutant.wrong(getattr(mutant.owner, mutant.attribute))
        patched.enter_context(replaced(mutant.owner, mutant.attribute, wrong))
        for seed in seeds:
            for problem in _problems(mutant, seed):
                if re.search(mutant.says, problem):
                    return seed, problem
                strange = strange or problem
    if strange:
        # The defect may have lost its place, or the checker may say it in other words now.
        print(f"{mutant.name}: expected {mutant.says!r}, and found:\n{strange}", flush=True)
    return None


def _hunt_number(number: int) -> tuple[int, tuple[int, str] | None]:
    return number, hunt(MUTANTS[number])


def main() -> int:
    """Run all mutants, or those that are named. Returns 1 if any is not detected."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help="which; all without")
    parser.add_argument("--processes", type=int, default=2)
    options = parser.parse_args()
    numbers = [
        number
        for number, mutant in enumerate(MUTANTS)
        if not options.names or mutant.name in options.names
    ]
    missed = 0
    with get_context("fork").Pool(options.processes, maxtasksperchild=1) as pool:
        for number, found in pool.imap_unordered(_hunt_number, numbers):
            name = MUTANTS[number].name
            if found is None:
                missed += 1
                print(f"NOT CAUGHT  {name}", flush=True)
            else:
                print(f"seed {found[0]:4}  {name}\n           {found[1]:.160}", flush=True)
    print(f"{len(numbers) - missed} of {len(numbers)} mutants were caught")
    return min(1, missed)


if __name__ == "__main__":
    sys.exit(main())
