"""The state store on RocksDB.

All families share one column family, each with a byte in front of its keys, and RocksDB's own
write-ahead log is off. A batch goes into one memtable, memtables reach the disk in the order in
which they were filled, so a crash leaves a whole prefix of the batches: that is all of the
store's promise, and it rests on nothing else.

What rocksdict 0.3.29 offers, and is not used here because a trial showed otherwise:

- Column families. `flush` flushes the one it is called on, atomic flush or not: a batch over two
  of them, one flushed, then SIGKILL, came back as half a batch.
- The end of `items()`, `keys()`, `values()`: it is the same at a damaged block. `RdictIter`
  tells one from the other, by `status`. A page is read with `items`, which is twice as fast,
  and only where that ends before the page is full, an `RdictIter` has to say why.
- `set_iterate_lower_bound`, which sets the upper one, and iterators of a `Snapshot`, which show
  what was written after it. An iterator of the database is a snapshot by itself.
- An upper bound that nobody holds on to: iterators compare with the caller's bytes object, and
  go wrong once it is freed. Each scan keeps its own.
- Waiting in a write. `write` keeps the interpreter lock, so a write that RocksDB holds back
  would stop the whole server. We have it refused instead (`no_slowdown`) and wait in a flush,
  which gives the lock away.

For the same reason a batch should be small: a thousand puts hold the interpreter for about 2 ms.
"""

import errno
import os
import re
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final
from weakref import WeakSet

import rocksdict

from headwater_protocol.errors import DamagedFile, DirectoryInUse
from headwater_server.storage.errors import DiskFull
from headwater_server.storage.store.interface import (
    DELETE,
    DELETE_RANGE,
    FAMILY_END,
    Family,
    Page,
    WriteBatch,
)

_KIB: Final = 1024
_MIB: Final = 1024 * _KIB

_KEYS_A_FILTER_MIN: Final = 1024
"""Keys that the smallest piece of a filter speaks for, to read all of them by point lookups."""

WRITE_ATTEMPTS_MAX: Final = 100
"""Times that a batch is offered. Each time but the first, all compaction in its way is done."""


@dataclass(frozen=True, slots=True)
class RocksSettings:
    """Memory and sizes. The defaults keep a server of ten million keys below 250 MB.

    Attributes:
        cache_size: bytes of blocks kept, those of indexes and filters among them.
        write_buffer_size: bytes of a memtable.
        write_buffers_max: memtables at most, those being written to the disk included.
        open_files_max: files that RocksDB keeps open.
        file_size: bytes of a file in the second level; the aim, not a bound.
    """

    cache_size: int = 96 * _MIB
    write_buffer_size: int = 16 * _MIB
    write_buffers_max: int = 4
    open_files_max: int = 256
    file_size: int = 64 * _MIB


class RocksStore:
    """A state store in a directory of its own."""

    def __init__(self, path: str, settings: RocksSettings, *, read_only: bool) -> None:
        self._path = path
        self._settings = settings
        self._read_only = read_only
        self._cache = rocksdict.Cache(settings.cache_size)
        self._write_options = rocksdict.WriteOptions()
        # Properties since 0.3.25, but still methods in its type hints.
        for option in ("disable_wal", "no_slowdown"):
            setattr(self._write_options, option, True)
        self._scans: WeakSet[Any] = WeakSet()
        self._failed: DiskFull | None = None
        self._database = self._open()

    @staticmethod
    def open(
        path: str, settings: RocksSettings | None = None, *, read_only: bool = False
    ) -> "RocksStore":
        """Open the store in *path*, or make one there if there is none; the directory may miss.

        A read-only one may be opened beside its owner and shows what was flushed until now.

        Raises:
            DamagedFile: files are missing or broken; no store is there, and it is read-only.
            DirectoryInUse: another process has it open.
            DiskFull: there was no room.
        """
        return RocksStore(path, settings or RocksSettings(), read_only=read_only)

    def _open(self) -> rocksdict.Rdict:
        names = set(os.listdir(self._path)) if os.path.isdir(self._path) else set()
        exists = "CURRENT" in names
        # RocksDB names its first files in CURRENT last. Data without it was not left by a crash,
        # and would be thrown away if we let RocksDB begin anew.
        if not exists and (self._read_only or any(name.endswith(".sst") for name in names)):
            current = os.path.join(self._path, "CURRENT")
            raise DamagedFile(
                f"{current} is missing", details={"file": current, "offset": 0, "missing": True}
            )
        access = (
            rocksdict.AccessType.read_only(False)
            if self._read_only
            else rocksdict.AccessType.read_write()
        )
        options = self._options(create=not exists)
        try:
            # Named, or rocksdict would take what the OPTIONS file says of it, and a small cache
            # of its own.
            families = {"default": options}
            database = rocksdict.Rdict(self._path, options, families, access)
        except Exception as error:
            raise self._told(error) from error
        self._get = database.get
        return database

    def _options(self, *, create: bool) -> rocksdict.Options:
        settings = self._settings
        options = rocksdict.Options(raw_mode=True)
        options.create_if_missing(create)
        options.set_paranoid_checks(True)
        options.set_block_based_table_factory(self._table_options())
        options.set_compression_type(rocksdict.DBCompressionType.lz4())
        options.set_write_buffer_size(settings.write_buffer_size)
        options.set_max_write_buffer_number(settings.write_buffers_max)
        options.set_target_file_size_base(settings.file_size)
        options.set_max_bytes_for_level_base(4 * settings.file_size)
        options.set_level_compaction_dynamic_level_bytes(True)
        options.set_max_background_jobs(2)
        options.set_max_open_files(settings.open_files_max)
        # Files reach the disk as they are written, so that the sync at the end is short.
        options.set_bytes_per_sync(_MIB)
        options.set_skip_stats_update_on_db_open(True)
        options.set_stats_dump_period_sec(0)
        options.set_stats_persist_period_sec(0)
        options.set_max_log_file_size(_MIB)
        options.set_keep_log_file_num(2)
        options.set_max_manifest_file_size(8 * _MIB)
        return options

    def _table_options(self) -> rocksdict.BlockBasedOptions:
        table = rocksdict.BlockBasedOptions()
        table.set_block_cache(self._cache)
        table.set_block_size(4 * _KIB)
        table.set_format_version(5)
        table.set_checksum_type(rocksdict.ChecksumType.xxh3())
        table.set_bloom_filter(10, False)
        # Indexes and filters grow with the data. In pieces, and within the cache, they are
        # bounded like everything else; only their top levels are always there.
        table.set_cache_index_and_filter_blocks(True)
        table.set_index_type(rocksdict.BlockBasedIndexType.two_level_index_search())
        table.set_partition_filters(True)
        table.set_pin_top_level_index_and_filter(True)
        table.set_pin_l0_filter_and_index_blocks_in_cache(True)
        return table

    # Reading.

    def get(self, family: Family, key: bytes) -> bytes | None:
        try:
            value: bytes | None = self._get(family + key)
        except Exception as error:
            raise self._told(error) from error
        return value

    def get_many(self, family: Family, keys: Sequence[bytes]) -> list[bytes | None]:
        try:
            values: list[bytes | None] = self._get([family + key for key in keys])  # type: ignore[assignment]
        except Exception as error:
            raise self._told(error) from error
        return values

    def scan(
        self, family: Family, start: bytes, end: bytes | None = None, *, reverse: bool = False
    ) -> Iterator[tuple[bytes, bytes]]:
        first = family + start
        stored_end = FAMILY_END[family] if end is None else family + end
        if first >= stored_end:
            return iter(())
        options = rocksdict.ReadOptions()
        options.set_iterate_upper_bound(stored_end)
        # Made here and not in the generator, whose body first runs when it is first asked.
        try:
            iterator = self._database.iter(options)
            if reverse:
                iterator.seek_to_last()
            else:
                iterator.seek(first)
        except Exception as error:
            raise self._told(error) from error
        scan = self._items(iterator, iterator.prev if reverse else iterator.next, first, stored_end)
        self._scans.add(scan)
        return scan

    def _items(
        self,
        iterator: rocksdict.RdictIter,
        move: Callable[[], None],
        first: bytes,
        stored_end: bytes,
    ) -> Iterator[tuple[bytes, bytes]]:
        key, value = iterator.key, iterator.value
        while (found := key()) is not None and found >= first:
            yield found[1:], value()
            move()
        # An iterator has no more keys at the end, and when it could not read on.
        try:
            iterator.status()
        except Exception as error:
            raise self._told(error) from error
        # RocksDB compares with these very bytes, and the iterator does not keep them alive: the
        # generator's frame does.
        del stored_end

    def page(
        self,
        family: Family,
        start: bytes,
        end: bytes | None,
        *,
        count_max: int,
        size_max: int,
        reverse: bool = False,
    ) -> Page:
        first = family + start
        stored_end = FAMILY_END[family] if end is None else family + end
        keys: list[bytes] = []
        values: list[bytes] = []
        if first >= stored_end:
            return Page(keys, values, more=False)
        options = rocksdict.ReadOptions()
        options.set_iterate_upper_bound(stored_end)
        try:
            # Of any types after its type hints; of bytes in raw mode.
            items: Iterator[Any] = self._database.items(
                reverse, None if reverse else first, options
            )
        except Exception as error:
            raise self._told(error) from error
        size = 0
        for key, value in items:
            if reverse and key < first:
                return Page(keys, values, more=False)
            keys.append(key[1:])
            values.append(value)
            size += len(value)
            if len(keys) >= count_max or size >= size_max:
                return Page(keys, values, more=True)
        last = family + keys[-1] if keys else None
        if self._ends_after(last, first, stored_end, reverse=reverse):
            return Page(keys, values, more=False)
        # It could not read on, and now it can; or something was written behind the last key.
        keys, values, size = [], [], 0
        for key, value in self.scan(family, start, end, reverse=reverse):
            keys.append(key)
            values.append(value)
            size += len(value)
            if len(keys) >= count_max or size >= size_max:
                return Page(keys, values, more=True)
        return Page(keys, values, more=False)

    def _ends_after(
        self, last: bytes | None, first: bytes, stored_end: bytes, *, reverse: bool
    ) -> bool:
        """Whether a range has no key behind *last*, which is the last one that was found in it.

        Raises:
            DamagedFile: that cannot be told.
        """
        options = rocksdict.ReadOptions()
        options.set_iterate_upper_bound(stored_end)
        try:
            iterator = self._database.iter(options)
            if reverse:
                iterator.seek_to_last() if last is None else iterator.seek_for_prev(last)
            else:
                iterator.seek(first if last is None else last)
            found = iterator.key()
            if found is not None and found == last:
                iterator.prev() if reverse else iterator.next()
                found = iterator.key()
            if found is None:
                iterator.status()
        except Exception as error:
            raise self._told(error) from error
        return found is None or found < first

    # Writing.

    def write(self, batch: WriteBatch) -> None:
        if self._failed is not None:
            raise DiskFull(self._path, self._failed.size)
        for _ in range(WRITE_ATTEMPTS_MAX):
            try:
                self._database.write(_rocks_batch(batch), self._write_options)
                return
            except Exception as error:
                if not str(error).startswith("Result incomplete"):
                    raise self._told(error) from error
            # Memtables or files have piled up. A flush waits until there are less of them, and
            # other threads run meanwhile.
            self.flush()
        raise OSError(errno.EBUSY, f"a batch was refused {WRITE_ATTEMPTS_MAX} times", self._path)

    def flush(self) -> None:
        if self._failed is not None:
            raise DiskFull(self._path, self._failed.size)
        try:
            self._database.flush(True)
        except Exception as error:
            raise self._told(error) from error

    def compact(self, family: Family, start: bytes, end: bytes) -> None:
        try:
            self._database.compact_range(family + start, family + end)
        except Exception as error:
            raise self._told(error) from error

    def checkpoint_to(self, path: str) -> None:
        try:
            rocksdict.Checkpoint(self._database).create_checkpoint(path)
        except Exception as error:
            # Nothing was to be flushed, so whatever failed is not this store's.
            raise error if type(error) is not Exception else explain(str(error), path) from error

    def reopen(self) -> None:
        # The flush that closing does fails once more, and the next open tells why.
        try:
            self.close()
        except DiskFull:
            pass
        self._failed = None
        self._database = self._open()

    def close(self) -> None:
        # RocksDB stays open, and locked, as long as one iterator lives.
        for scan in list(self._scans):
            scan.close()
        self._scans.clear()
        try:
            self._database.close()
        except rocksdict.DbClosedError:
            pass
        except Exception as error:
            raise self._told(error) from error

    # For operators.

    def sizes(self) -> dict[str, int]:
        def figure(name: str) -> int:
            return self._database.property_int_value(f"rocksdb.{name}") or 0

        return {
            "keys": figure("estimate-num-keys"),
            "file_bytes": figure("total-sst-files-size"),
            "memory_bytes": figure("cur-size-all-mem-tables"),
            "cache_bytes": self._cache.get_usage(),
        }

    def verify(self) -> int:
        count = 0
        options = rocksdict.ReadOptions()
        options.set_readahead_size(2 * _MIB)
        try:
            iterator = self._database.iter(options)
            iterator.seek_to_first()
            while (key := iterator.key()) is not None:
                # A scan reads no filters; a lookup does.
                if count % (_KEYS_A_FILTER_MIN // 4) == 0 and self._get(key) is None:
                    raise AssertionError(f"key {key!r} is in a scan, and is not found")
                count += 1
                iterator.next()
            iterator.status()
        except Exception as error:
            raise self._told(error) from error
        return count

    def _told(self, error: Exception) -> Exception:
        """What a message of RocksDB means."""
        # rocksdict raises Exception itself for all that RocksDB says.
        if type(error) is not Exception:
            return error
        told = explain(str(error), self._path)
        if isinstance(told, DiskFull):
            self._failed = told
        return told


def _rocks_batch(batch: WriteBatch) -> rocksdict.WriteBatch:
    built = rocksdict.WriteBatch(raw_mode=True)
    keys, values = batch.keys, batch.values
    begin = 0
    for place, kind in batch.others.items():
        if begin < place:
            _put_all(built, keys[begin:place], values[begin:place])
        if kind == DELETE:
            built.delete(keys[place])
        else:
            assert kind == DELETE_RANGE
            built.delete_range(keys[place], values[place])
        begin = place + 1
    _put_all(built, keys[begin:], values[begin:])
    return built


def _put_all(built: rocksdict.WriteBatch, keys: list[bytes], values: list[bytes]) -> None:
    # `map` calls without the interpreter, which would take as long as the call.
    deque(map(built.put, keys, values), maxlen=0)


_PLACE: Final = re.compile(r" in (?P<file>/.+?) offset (?P<offset>\d+)")
_FILE: Final = re.compile(r"(?P<file>/[^\n:]*?(?:\d{6,}\.sst|MANIFEST-\d+|CURRENT|IDENTITY))\b")


def explain(message: str, path: str) -> Exception:
    """The error that a message of RocksDB stands for; *path* is its directory."""
    if "No space left on device" in message or "Disk quota exceeded" in message:
        return DiskFull(path, 0)
    if "lock hold by current process" in message or "While lock file" in message:
        return DirectoryInUse(f"{path} is in use: {message}", details={"path": path, "pid": 0})
    if message.startswith("Corruption") or "No such file or directory" in message:
        details: dict[str, Any] = {"file": path}
        if place := _PLACE.search(message):
            details = {"file": place["file"], "offset": int(place["offset"])}
        elif file := _FILE.search(message):
            details = {"file": file["file"]}
        return DamagedFile(f"{details['file']}: {message.strip()}", details=details)
    return OSError(errno.EIO, message, path)
