"""`headwater` with small log segments, which can be killed in the middle of a checkpoint.

    python small_server.py serve --data DIR ...

It has two environment variables. Their names do not begin with HEADWATER_, because ServerProcess
removes such variables:

    SEGMENT_SIZE     bytes of a segment of the write-ahead log
    KILL_AT_BATCH    after this many batches, flush the state store and kill this process

The directories in the repository must be small, and one of them must end in the middle of a
checkpoint. `serve` has no options for this.
"""

import os
import signal
from typing import Final

from headwater_server.cli.main import main
from headwater_server.storage.store.interface import WriteBatch
from headwater_server.storage.store.rocks_store import RocksStore
from headwater_server.storage.wal.file_write_ahead_log import FileWriteAheadLog

SEGMENT_SIZE_DEFAULT: Final = 64 * 1024


def _make_segments_small(size: int) -> None:
    opened = FileWriteAheadLog.open.__func__  # type: ignore[attr-defined]
    opened.__kwdefaults__["segment_size"] = size


def _kill_at_batch(number: int) -> None:
    write = RocksStore.write
    count = 0

    def write_and_count(store: RocksStore, batch: WriteBatch) -> None:
        nonlocal count
        write(store, batch)
        count += 1
        if count == number:
            # Without the flush, no part of the checkpoint would be on the disk.
            store.flush()
            os.kill(os.getpid(), signal.SIGKILL)

    RocksStore.write = write_and_count  # type: ignore[method-assign, assignment]


if __name__ == "__main__":
    _make_segments_small(int(os.environ.get("SEGMENT_SIZE", SEGMENT_SIZE_DEFAULT)))
    if "KILL_AT_BATCH" in os.environ:
        _kill_at_batch(int(os.environ["KILL_AT_BATCH"]))
    main()
