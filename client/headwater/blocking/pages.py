"""Pages without an event loop. Written by hand, because iteration differs from async iteration."""

from collections.abc import Iterator
from typing import Any, Generic, TypeVar

from headwater.reads.pages import Pages
from headwater.transport.stepping import step
from headwater_protocol.numbers import CommitNumber, Position

T = TypeVar("T")


class BlockingPages(Iterator[T], Generic[T]):
    """An iterator over items that come in pages."""

    def __init__(self, pages: Pages[T]) -> None:
        self._pages = pages

    @property
    def commit(self) -> CommitNumber | None:
        """The commit as of which the items are.

        None before the first page, and for items that are of no single commit.
        """
        return self._pages.commit

    @property
    def moved(self) -> bool:
        """Whether the read outlasted the history window.

        Then the items of later pages are as of newer commits, and `commit` is that of the first
        page: changes after it may be in the items, or not.
        """
        return self._pages.moved

    @property
    def position(self) -> Position | None:
        """Of events: the position up to which all that match were handed out.

        It is that of an event, or behind it if no later one matches. So after the last event it can
        be the `after=` of an append with `unless=`, and of a later read. In reverse it is where a
        later read continues. None before the first page, and for other items.
        """
        return self._pages.position

    def to_arrow(self) -> Any:
        """Read all remaining items into a pyarrow.Table; needs `headwater[arrow]`.

        Events have the columns position, stream, version, commit, time, id, type, data, metadata,
        tags, erased and undecodable; keys have key and value. Data, metadata, keys and values are
        JSON text.

        Raises:
            InvalidArgument: the items are neither events nor keys, or pyarrow is not installed.
        """
        return step(self._pages.to_arrow())

    def __iter__(self) -> Iterator[T]:
        # A generator is faster, because `for` then calls no Python function for each item.
        return _items(self._pages)

    def __next__(self) -> T:
        # Not the generator, which would end at an item that cannot be decoded.
        while True:
            for item in self._pages.items:
                return item
            if not step(self._pages.turn()):
                raise StopIteration


def _items(pages: Pages[T]) -> Iterator[T]:
    # What an earlier loop left, which ended at an item that could not be decoded, say.
    yield from pages.items
    while step(pages.turn()):
        yield from pages.items
