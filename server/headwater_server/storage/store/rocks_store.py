"""The state store on RocksDB.

All families share one column family, and their keys begin with the family's byte. RocksDB's own
write-ahead log is off. A batch goes into one memtable, and memtables reach the disk in the order in
which they were filled. So after a crash the store holds a prefix of the batches. The store's
guarantees rest on this alone.

We avoid the following features of rocksdict 0.3.29, because they failed in tests:

- Column families. `flush` flushes only its own column family, even with atomic flush: after a
  batch over two of them, a flush of one, and SIGKILL, half the batch was there.
- The end of `items()`, `keys()` and `values()`: they also end at a damaged block. `RdictIter`
  reports the damage in `status`. `items` is twice as fast, so we read a page with it, and use an
  `RdictIter` only if it ends before the page is full.
- `set_iterate_lower_bound`, which sets the upper bound, and iterators of a `Snapshot`, which show
  later writes. An iterator of the database is itself a snapshot.
- A temporary object as upper bound: iterators compare with the caller's bytes object, and fail
  once it is freed. Each scan keeps a reference.
- Waiting in a write. `write` keeps the interpreter lock, so a write that RocksDB delays would stop
  the whole server. We let RocksDB refuse it instead (`no_slowdown`) and wait in a flush, which
  releases the lock.

For the same reason batches should be small: a thousand puts hold the interpreter lock for about
2 ms.
"""

import errno
import os
import re
import shutil
import tempfile
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
"""Keys in the smallest partition of a filter, to read all of them by point lookups."""

_CONFIGURATION: Final = "rocksdict-config.json"
"""A file that rocksdict writes beside those of RocksDB, at each open."""

WRITE_ATTEMPTS_MAX: Final = 100
"""How often we try to write a batch. Before each retry we wait until compaction has caught up."""


@dataclass(frozen=True, slots=True)
class RocksSettings:
    """Memory and sizes. The defaults keep a server of ten million keys below 250 MB.

    Attributes:
        cache_size: bytes of cached blocks, including those of indexes and filters.
        write_buffer_size: bytes of a memtable.
        write_buffers_max: bound on memtables, including those being written to disk.
        open_files_max: files that RocksDB keeps open.
        file_size: target bytes of a file in the second level; not a bound.
    """

    cache_size: int = 96 * _MIB
    write_buffer_size: int = 16 * _MIB
    write_buffers_max: int = 4
    open_files_max: int = 256
    file_size: int = 64 * _MIB


class RocksStore:
    """A state store in its own directory."""

    def __init__(self, path: str, settings: RocksSettings, *, read_only: bool) -> None:
        self._path = path
        self._settings = settings
        self._read_only = read_only
        self._cache = rocksdict.Cache(settings.cache_size)
        self._write_options = rocksdict.WriteOptions()
        # Properties since rocksdict 0.3.25, but its type hints still say methods.
        for option in ("disable_wal", "no_slowdown"):
            setattr(self._write_options, option, True)
        self._scans: WeakSet[Any] = WeakSet()
        self._failed: DiskFull | None = None
        self._shadow: tempfile.TemporaryDirectory[str] | None = None
        self._database = self._open()

    @staticmethod
    def open(
        path: str, settings: RocksSettings | None = None, *, read_only: bool = False
    ) -> "RocksStore":
        """Open the store in *path*; make the store, and the directory, if there is none.

        A read-only store may be opened while another process owns it; it shows the flushed data.
        Nothing is written into *path*, which may be on a disk that is mounted read-only.

        Raises:
            DamagedFile: files are missing or broken; or *read_only*, and there is no store.
            DirectoryInUse: another process has it open.
            DiskFull: there was no room.
        """
        return RocksStore(path, settings or RocksSettings(), read_only=read_only)

    def _open(self) -> rocksdict.Rdict:
        names = set(os.listdir(self._path)) if os.path.isdir(self._path) else set()
        exists = "CURRENT" in names
        # RocksDB writes CURRENT last when it makes a store. So a crash cannot leave data without
        # CURRENT, and RocksDB would discard that data if we let it create a store.
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
            # Name the column family, or rocksdict would use the options in the OPTIONS file, with a
            # small cache of its own.
            families = {"default": options}
            path = self._shadow_path(names) if self._read_only else self._path
            database = rocksdict.Rdict(path, options, families, access)
        except Exception as error:
            told = self._told(error)
            self._remove_shadow()
            raise told from error
        self._get = database.get
        return database

    def _shadow_path(self, names: set[str]) -> str:
        """A temporary directory with links to the store's files.

        RocksDB writes its log of messages into the directory that it opens, and rocksdict a file
        with its configuration, even if they only read.
        """
        self._shadow = tempfile.TemporaryDirectory(prefix="headwater-state-")
        shadow = self._shadow.name
        for name in names - {_CONFIGURATION, "LOCK", "LOG"}:
            os.symlink(os.path.abspath(os.path.join(self._path, name)), os.path.join(shadow, name))
        if _CONFIGURATION in names:
            shutil.copyfile(
                os.path.join(self._path, _CONFIGURATION), os.path.join(shadow, _CONFIGURATION)
            )
        return shadow

    def _remove_shadow(self) -> None:
        if self._shadow is not None:
            self._shadow.cleanup()
            self._shadow = None

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
        # Write files back continuously, so that the sync at the end is short.
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
        # Indexes and filters grow with the data. Partitioned and in the cache, they are bounded;
        # only their top levels are always in memory.
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
        # Create the iterator here: the generator's body runs only at its first item.
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
        # An iterator also stops when it cannot read; only its status tells.
        try:
            iterator.status()
        except Exception as error:
            raise self._told(error) from error
        # RocksDB compares with this bytes object, which the iterator does not keep alive. The
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
            # The type hints say any type; in raw mode it is bytes.
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
        # The first read failed and this one works, or a key was written after the last one.
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
        """Whether a range ends after *last*, the last key that was found in it.

        Raises:
            DamagedFile: the store cannot tell.
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
            # Too many memtables or files. A flush waits until there are fewer, and other
            # threads run meanwhile.
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
            # Nothing had to be flushed, so the failure does not concern this store.
            raise error if type(error) is not Exception else explain(str(error), path) from error

    def reopen(self) -> None:
        # Closing flushes, which fails again; the next open reports why.
        try:
            self.close()
        except DiskFull:
            pass
        try:
            self._database = self._open()
        except DiskFull as full:
            # A neighbour may fill the disk to its last byte. What was flushed can still be read.
            self._read_again(full)
            raise
        self._failed = None

    def _read_again(self, full: DiskFull) -> None:
        """Open what was flushed for reading, until there is room for another `reopen`."""
        self._read_only = True
        try:
            self._database = self._open()
        except Exception as error:
            raise full from error
        finally:
            self._read_only = False
            self._failed = full

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
        finally:
            self._remove_shadow()

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
                # Also look the key up: a scan reads no filters, a lookup does.
                if count % (_KEYS_A_FILTER_MIN // 4) == 0 and self._get(key) is None:
                    raise AssertionError(f"key {key!r} is in a scan, but a lookup does not find it")
                count += 1
                iterator.next()
            iterator.status()
        except Exception as error:
            raise self._told(error) from error
        return count

    def _told(self, error: Exception) -> Exception:
        """The exception for an error of RocksDB."""
        # rocksdict raises plain Exception for every error of RocksDB.
        if type(error) is not Exception:
            return error
        message = str(error)
        if self._shadow is not None:
            message = message.replace(self._shadow.name, self._path)
        told = explain(message, self._path)
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
    # `map` avoids a loop in the interpreter, which would take as long as the calls.
    deque(map(built.put, keys, values), maxlen=0)


_PLACE: Final = re.compile(r" in (?P<file>/.+?) offset (?P<offset>\d+)")
_FILE: Final = re.compile(r"(?P<file>/[^\n:]*?(?:\d{6,}\.sst|MANIFEST-\d+|CURRENT|IDENTITY))\b")


def explain(message: str, path: str) -> Exception:
    """The exception for a message of RocksDB; *path* is the store's directory."""
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
