"""Pages without an event loop. Written by hand, because iteration differs from async iteration."""

from collections.abc import Iterator
from typing import Generic, TypeVar

from headwater.reads.pages import Pages
from headwater.transport.stepping import step

T = TypeVar("T")


class BlockingPages(Iterator[T], Generic[T]):
    """An iterator over items that come in pages."""

    def __init__(self, pages: Pages[T]) -> None:
        # A generator, so that there is one coroutine for each page and not for each item.
        self._items = _items(pages)

    def __iter__(self) -> Iterator[T]:
        return self._items

    def __next__(self) -> T:
        return next(self._items)


def _items(pages: Pages[T]) -> Iterator[T]:
    while step(pages.turn()):
        yield from pages.items
