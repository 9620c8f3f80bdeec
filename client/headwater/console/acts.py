"""What a user can do: replay and discard parked events; retry, skip and rebuild in projections.

Each act has an address. Opened, it asks a question that names what will happen. The form of the
question does it. Nothing can be done in the past, and the server checks the user's rights.

Retrying, skipping and rebuilding run the application's handlers, in the console's process. So they
need `--app`, as the commands of `headwater projection` do.
"""

import inspect
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Final

from headwater.console.pages.consumers import parked_streams
from headwater.console.pages.reading import event_at, with_codec
from headwater.console.visits import Elsewhere, Handler, Page, Visit
from headwater.console.words import visible
from headwater.database import Database
from headwater.errors import InvalidArgument

Form = dict[str, str]
Do = Callable[[Visit, Form], Awaitable[Page | Elsewhere]]


@dataclass(frozen=True, slots=True)
class Question:
    """A question: what is asked, what will happen, the word on the button, and the way back."""

    title: str
    lines: tuple[str, ...]
    button: str
    back: str
    members: tuple[tuple[str, str], ...]
    danger: bool = False


def _page(question: Question) -> Page:
    return Page("question.html", question.title, "/consumers", {"question": question})


def _check_live(visit: Visit) -> None:
    if not visit.moment.live:
        raise InvalidArgument("the past is read only; go back to live to act")


# Consumer groups.


def _ask_group(word: str, consequence: str, danger: bool) -> Handler:
    async def ask(visit: Visit) -> Page:
        _check_live(visit)
        group, position = visit.get("group"), _position(visit.get("position"))
        info = await visit.db.groups.info(group)
        if position is None:
            what = f"all {info.parked} parked events of {visible(group)}"
            about: tuple[str, ...] = ()
        else:
            row = await event_at(visit, position)
            what = f"event {row.event.position:,} of {visible(group)}"
            kind, stream = visible(row.event.type), visible(row.event.stream)
            about = (f"{kind}, version {row.event.version:,} of {stream}.",)
        held = f"{info.waiting} later events wait behind parked ones of {visible(group)} now."
        return _page(
            Question(
                f"{word} {what}?",
                (*about, consequence, held),
                word,
                visit.url("/consumers", {"group": group}),
                (("group", group), ("position", visit.get("position"))),
                danger,
            )
        )

    return ask


def _do_group(word: str) -> Do:
    async def do(visit: Visit, form: Form) -> Elsewhere:
        _check_live(visit)
        group, position = form.get("group", ""), _position(form.get("position", ""))
        positions = None if position is None else [position]
        groups = visit.db.groups
        if word == "Replay":
            count = await groups.replay(group, positions)
            done = f"{count} parked events are delivered again"
        else:
            count = await groups.discard(group, positions)
            done = f"{count} parked events were discarded"
        return Elsewhere(visit.url("/consumers", {"group": group, "done": done}))

    return do


def _position(text: str) -> int | None:
    if not text:
        return None
    if not (text.isascii() and text.isdigit() and len(text) < 19):
        raise InvalidArgument(f"position: {text!r:.40} is no position")
    return int(text)


# Projections.


async def _application(visit: Visit) -> Database:
    """The database of the visit, on which the application has defined its projections."""
    if visit.settings.define is None:
        raise InvalidArgument(
            "the console does not know the handlers of the application; start it with "
            "--app module:function"
        )
    db = with_codec(visit.db, visit.settings.codec)
    defined = visit.settings.define(db)
    if inspect.isawaitable(defined):
        await defined
    return db


def _ask_projection(word: str, consequence: str, *, of_stream: bool, danger: bool) -> Handler:
    async def ask(visit: Visit) -> Page:
        _check_live(visit)
        name, stream = visit.get("projection"), visit.get("stream")
        lines = [consequence]
        if of_stream:
            one = next((p for p in await parked_streams(visit, name) if p.stream == stream), None)
            if one is None:
                raise InvalidArgument(f"stream {stream!r:.80} is not parked in {name!r:.80}")
            lines.insert(
                0, f"{visible(one.type)}, version {one.version:,}, failed {one.attempts} times."
            )
            lines.append(f"{one.held} later events of the stream wait.")
        (await _application(visit)).projections.defined(name)
        lines.append(f"The handler is that of {visit.settings.handlers}.")
        what = f"{visible(stream)} in {visible(name)}" if of_stream else visible(name)
        return _page(
            Question(
                f"{word} {what}?",
                tuple(lines),
                word,
                visit.url("/consumers", {"projection": name}),
                (("projection", name), ("stream", stream)),
                danger,
            )
        )

    return ask


def _do_projection(word: str) -> Do:
    async def do(visit: Visit, form: Form) -> Elsewhere:
        _check_live(visit)
        name, stream = form.get("projection", ""), form.get("stream", "")
        projections = (await _application(visit)).projections
        if word == "Rebuild":
            await projections.rebuild(name)
            done = f"{name} was rebuilt"
        else:
            release: Any = projections.retry if word == "Retry" else projections.skip
            left = await release(name, stream)
            done = f"{stream} failed again and stays parked" if left else f"{stream} goes on"
        return Elsewhere(visit.url("/consumers", {"projection": name, "done": done}))

    return do


ACTS: Final[dict[str, tuple[Handler, Do]]] = {
    "/groups/replay": (
        _ask_group("Replay", "It is delivered again, before later ones of its stream.", False),
        _do_group("Replay"),
    ),
    "/groups/discard": (
        _ask_group(
            "Discard", "It counts as done. Nobody handles it, and later ones are delivered.", True
        ),
        _do_group("Discard"),
    ),
    "/projections/retry": (
        _ask_projection(
            "Retry",
            "The event is handled again, then the later ones.",
            of_stream=True,
            danger=False,
        ),
        _do_projection("Retry"),
    ),
    "/projections/skip": (
        _ask_projection(
            "Skip",
            "The event is left out of the model for good, and the later ones are handled.",
            of_stream=True,
            danger=True,
        ),
        _do_projection("Skip"),
    ),
    "/projections/rebuild": (
        _ask_projection(
            "Rebuild",
            "The model is built again beside the one that readers see, and then replaces it. "
            "This page answers when that is done.",
            of_stream=False,
            danger=True,
        ),
        _do_projection("Rebuild"),
    ),
}
"""For each address: the question, and what its form does."""
