"""Statistics of a running engine, for `stats`: sizes, pinned versions, and who pins them."""

from typing import Any, Final

from headwater_server.engine.state.layers import State
from headwater_server.engine.transactions.open_transactions import OpenTransactions
from headwater_server.engine.transactions.sequencer import Sequencer

_PINNING_MAX: Final = 10
"""How many of the transactions with the oldest read views are listed."""


def collect_statistics(
    state: State,
    sequencer: Sequencer,
    opened: OpenTransactions,
    *,
    now: int,
    log_size: int,
    checkpoints: int,
    checkpoint_running: bool,
    read_only_reason: str | None,
) -> dict[str, Any]:
    """The statistics by name. Sizes are in bytes, ages in seconds."""
    active = state.active
    oldest = sorted(opened, key=lambda transaction: transaction.view)[:_PINNING_MAX]
    return {
        "commit": sequencer.published,
        "log_time": sequencer.published_time.time,
        "clock_offset": sequencer.clock.offset_us / 1_000_000,
        "position": sequencer.published_position,
        "oldest_readable_commit": state.files.horizon,
        "checkpoint_commit": state.files.applied_commit,
        "checkpoint_running": checkpoint_running,
        "checkpoints": checkpoints,
        "memtable_commits": len(active.commits),
        "memtable_size": active.size,
        "log_size": log_size,
        "event_log_size": state.files.event_log.size,
        "commit_log_size": state.files.commit_log.size,
        "store_sizes": state.files.store.sizes(),
        "read_only": read_only_reason,
        "open_transactions": len(opened),
        "oldest_views": [
            {
                "transaction": transaction.id,
                "commit": transaction.view,
                "owner": str(transaction.owner),
                "age": (now - transaction.begun) / 1_000_000,
                "idle": (now - transaction.used) / 1_000_000,
            }
            for transaction in oldest
        ],
    }
