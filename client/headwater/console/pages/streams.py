"""Streams and categories: lists by name."""

from typing import Any, Final

from headwater.console.pages.reading import ROWS_MAX
from headwater.console.visits import Hidden, Page, Visit
from headwater.reads.history_pages import DescribedStream

CATEGORIES_MAX: Final = 200
"""Categories in the list; most databases have some dozens."""


async def streams(visit: Visit) -> Page:
    """The page of streams and categories."""
    category, prefix = visit.get("category"), visit.get("prefix")
    categories: Any = await visit.part(_categories(visit))
    found = await visit.part(_streams(visit, category, prefix))
    values = {
        "category": category,
        "prefix": prefix,
        "categories": categories,
        "streams": found[:ROWS_MAX] if isinstance(found, list) else found,
        "more": _last(found),
        "restricted": isinstance(categories, Hidden) and categories.kind == "right",
        "grants": [
            one
            for one in (await visit.session.rights()).grants
            if one.on in ("category", "prefix", "stream") and one.right == "read"
        ],
    }
    return Page("streams.html", "Streams", "/streams", values)


def _last(found: list[DescribedStream] | Hidden) -> str | None:
    """The last stream of the page, if there are more."""
    if isinstance(found, Hidden) or len(found) <= ROWS_MAX:
        return None
    return found[ROWS_MAX - 1].info.stream


async def _categories(visit: Visit) -> Any:
    # Events stay, so beyond the history window the streams of now are shown, with a note.
    source = visit.db if visit.moment.gone else visit.past
    found = []
    async for one in source.categories():
        found.append(one)
        if len(found) == CATEGORIES_MAX:
            break
    return found


async def _streams(visit: Visit, category: str, prefix: str) -> list[DescribedStream]:
    source = visit.db if visit.moment.gone else visit.past
    after = visit.get("after")
    begin = prefix
    if category and not prefix.startswith(f"{category}-"):
        begin = f"{category}-"
    found: list[DescribedStream] = []
    async for one in source.described_streams(prefix=begin):
        if one.info.stream > after and one.info.stream.startswith(prefix):
            found.append(one)
            if len(found) > ROWS_MAX:
                break
    return found
