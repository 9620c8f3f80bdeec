"""Writes llms.txt and build/llms-full.txt: the documentation for language models.

    python docs/llms.py

llms.txt has a line for each page, in the form of llmstxt.org. llms-full.txt has the pages that an
application needs, one after the other. Both are made from the pages alone. A test tells if llms.txt
is not current.
"""

import re
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parent.parent
DOCS: Final = ROOT / "docs"

ABOUT: Final = """\
# Headwater

> A database for event-sourced applications in Python: keys, event streams and snapshots in one
> serializable transaction, with clients for trio, asyncio and blocking code.

A stream such as `order-17` has what happened to one entity; what stands before the first "-" is its
category. `async with headwater.connect(url) as db` opens a database; `await db.run(function)` runs
a function in a transaction, again after conflicts, and commits exactly once. Without an event loop
it is `headwater.connect_blocking`, with the same names. The code of the guide runs in the tests.
"""

_LISTED: Final = re.compile(r"^- \[([^\]]+)\]\(([\w-]+\.md)\): (.*)$", re.MULTILINE)

OTHERS: Final = (
    ("docs/tutorial.md", "one application from nothing to production"),
    ("docs/explanation/isolation.md", "what transactions guarantee"),
    ("docs/explanation/exactly-once.md", "lost answers, retries, and effects elsewhere"),
    ("docs/explanation/streams.md", "streams, versions and positions"),
    ("docs/settings.md", "every setting of the server"),
    ("docs/integrations.md", "adapters for other libraries"),
    ("docs/protocol.md", "the wire protocol"),
    ("docs/architecture.md", "how it works inside"),
    ("CHANGELOG.md", "what changed"),
)


def guide() -> list[tuple[str, str, str]]:
    """The pages of the guide in their order: title, path, and what each is about."""
    listed = _LISTED.findall((DOCS / "guide/README.md").read_text())
    return [(title, f"docs/guide/{name}", about) for title, name, about in listed]


def index() -> str:
    """The text of llms.txt."""
    lines = [ABOUT, "## Guide", ""]
    lines += [f"- [{title}]({path}): {about}" for title, path, about in guide()]
    lines += ["", "## More", ""]
    lines += [f"- [{_title(path)}]({path}): {about}" for path, about in OTHERS]
    return "\n".join(lines) + "\n"


def full() -> str:
    """The text of llms-full.txt: the guide, the tutorial, and what explains them."""
    paths = [path for _, path, _ in guide()]
    paths += [path for path, _ in OTHERS if path.startswith(("docs/tutorial", "docs/explanation"))]
    pages = [f"<!-- {path} -->\n\n{(ROOT / path).read_text().strip()}\n" for path in paths]
    return "\n".join([ABOUT, *pages])


def _title(path: str) -> str:
    return (ROOT / path).read_text().partition("\n")[0].removeprefix("# ")


if __name__ == "__main__":
    (ROOT / "llms.txt").write_text(index())
    (ROOT / "build").mkdir(exist_ok=True)
    (ROOT / "build/llms-full.txt").write_text(full())
