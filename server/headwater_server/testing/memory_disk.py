"""A simulated disk: for every file and directory, the live and the durable state.

    live      = durable + all pending changes          what programs see
    durable                                            what was synced
    crashed   = durable + some pending changes         what a power loss leaves

A random source draws which changes survive: all, none, the first few, or any combination. A write
that does not survive whole can still leave some of its blocks: sectors, as a disk writes them, or
pages, as the operating system passes them to the disk.
"""

import random
from collections.abc import Iterator
from typing import Final, NamedTuple

SECTOR_SIZE: Final = 512
"""Bytes that a disk writes atomically."""

PAGE_SIZE: Final = 4096
"""Bytes that the operating system writes back together; without a sync, in any order."""


class Change(NamedTuple):
    """A pending change of a file: *data* written at *offset*; if None, a cut to *offset*."""

    offset: int
    data: bytes | None


def _apply(change: Change, content: bytearray) -> None:
    offset, data = change
    if data is None:
        if offset <= len(content):
            del content[offset:]
        else:
            content.extend(bytes(offset - len(content)))
        return
    if offset > len(content):
        content.extend(bytes(offset - len(content)))
    content[offset : offset + len(data)] = data


def _blocks(change: Change, size: int) -> Iterator[Change]:
    """The blocks of *size* bytes of a write, which reach the disk one by one."""
    assert change.data is not None
    at = 0
    while at < len(change.data):
        room = size - (change.offset + at) % size
        yield Change(change.offset + at, change.data[at : at + room])
        at += room


def _surviving(count: int, source: random.Random) -> list[bool]:
    """Which of *count* changes reached the disk: all, none, the first few, or any."""
    match source.randrange(4):
        case 0:
            return [True] * count
        case 1:
            return [False] * count
        case 2:
            kept = source.randint(0, count)
            return [place < kept for place in range(count)]
        case _:
            return [source.random() < 0.5 for _ in range(count)]


class FileNode:
    """A file: its live bytes, its durable bytes, and the changes between them."""

    __slots__ = ("durable", "live", "pending")

    def __init__(self, content: bytes | bytearray = b"") -> None:
        self.live = bytearray(content)
        self.durable = bytearray(content)
        self.pending: list[Change] = []

    def change(self, change: Change) -> None:
        _apply(change, self.live)
        self.pending.append(change)

    def sync(self) -> None:
        for change in self.pending:
            _apply(change, self.durable)
        self.pending.clear()

    def lose_some(self, source: random.Random) -> None:
        """Write some of the pending changes and drop the rest, as a failed sync does.

        The operating system marks the pages clean, so a later sync does not write them either.
        """
        self.durable = self.after_power_loss(source)
        self.pending.clear()

    def after_power_loss(self, source: random.Random) -> bytearray:
        content = bytearray(self.durable)
        for change, kept in zip(self.pending, _surviving(len(self.pending), source), strict=True):
            if kept:
                _apply(change, content)
            elif change.data is not None and source.random() < 0.5:
                # A torn write: the first few blocks arrived, or any of them.
                blocks = list(_blocks(change, source.choice((SECTOR_SIZE, PAGE_SIZE))))
                first = source.randint(0, len(blocks)) if source.random() < 0.5 else 0
                for place, block in enumerate(blocks):
                    if place < first or (not first and source.random() < 0.5):
                        _apply(block, content)
        return content

    def copy(self) -> "FileNode":
        twin = FileNode()
        twin.live = bytearray(self.live)
        twin.durable = bytearray(self.durable)
        twin.pending = list(self.pending)
        return twin


class Link(NamedTuple):
    """A pending change of a directory: *node* loses the name *old*, gets the name *new*."""

    node: "Node"
    old: str | None
    new: str | None


class DirectoryNode:
    """A directory: its live names, its durable names, and the changes between them."""

    __slots__ = ("durable", "live", "pending")

    def __init__(self) -> None:
        self.live: dict[str, Node] = {}
        self.durable: dict[str, Node] = {}
        self.pending: list[Link] = []

    def change(self, link: Link) -> None:
        _link(link, self.live)
        self.pending.append(link)

    def sync(self) -> None:
        for link in self.pending:
            _link(link, self.durable)
        self.pending.clear()

    def after_power_loss(self, source: random.Random) -> "DirectoryNode":
        names = dict(self.durable)
        for link, kept in zip(self.pending, _surviving(len(self.pending), source), strict=True):
            if kept:
                _link(link, names)
        found = DirectoryNode()
        for name, node in names.items():
            if isinstance(node, DirectoryNode):
                found.live[name] = node.after_power_loss(source)
            else:
                found.live[name] = FileNode(node.after_power_loss(source))
        found.durable = dict(found.live)
        return found

    def copy(self, twins: "dict[int, Node]") -> "DirectoryNode":
        twin = DirectoryNode()
        twin.live = {name: _twin(node, twins) for name, node in self.live.items()}
        twin.durable = {name: _twin(node, twins) for name, node in self.durable.items()}
        twin.pending = [link._replace(node=_twin(link.node, twins)) for link in self.pending]
        return twin


Node = FileNode | DirectoryNode


def _link(link: Link, names: dict[str, Node]) -> None:
    if link.old is not None and names.get(link.old) is link.node:
        del names[link.old]
    if link.new is not None:
        names[link.new] = link.node


def _twin(node: Node, twins: dict[int, Node]) -> Node:
    """The copy of *node*, the same one at each call: several names can refer to one file."""
    if id(node) not in twins:
        twins[id(node)] = node.copy(twins) if isinstance(node, DirectoryNode) else node.copy()
    return twins[id(node)]


def total_size(directory: DirectoryNode) -> int:
    """Live bytes of all files in a directory and below it."""
    return sum(
        total_size(node) if isinstance(node, DirectoryNode) else len(node.live)
        for node in directory.live.values()
    )
