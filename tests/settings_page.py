"""Writes docs/settings.md from the options of `headwater serve`: `python -m tests.settings_page`.

A test compares the page with what this would write.
"""

from pathlib import Path
from typing import Final

from headwater_server.cli.settings_file import Setting, all_settings

PAGE: Final = Path(__file__).parent.parent / "docs/settings.md"

_HEAD: Final = """\
# Settings of the server

Every setting of `headwater serve` has one name in three spellings:

| where | how |
|---|---|
| an option | `headwater serve --history-window 7200` |
| an environment variable | `HEADWATER_HISTORY_WINDOW=7200` |
| a line in the file of `--config` or `HEADWATER_CONFIG`, which is TOML | `history-window = 7200` |

The option counts before the variable, and the variable before the file. In the file, the settings
are at the top or in a table `[serve]`. A name that does not exist is refused. A setting with
several values is a list in the file, a repeated option, and separated by spaces in the variable.

```sh
headwater init headwater.toml            # writes a file with all settings and what they do
headwater config check headwater.toml    # shows what is set, and whether the server could start
headwater serve --config headwater.toml
```

The same file may have settings of clients at its top (`url`, `user`, `password`, `ca-file`,
`cert-file`, `key-file`, `timeout`), and tables of other commands.

[What ends by itself](what-ends.md) has the reasons of the bounds, and those that are fixed. This
page is written from the code: `python -m tests.settings_page`.
"""


def page() -> str:
    """The whole page."""
    parts = [_HEAD]
    for subject, settings in all_settings().items():
        table = ["| setting | value | default | what it does |", "|---|---|---|---|"]
        parts.append("\n".join([f"## {subject}\n", *table, *map(_row, settings), ""]))
    return "\n".join(parts)


def _row(setting: Setting) -> str:
    value = setting.unit.replace("|", "\\|")
    default = f"`{setting.default}`" if setting.default is not None else setting.told or ""
    if setting.name == "data":
        default = "must be given"
    return f"| `{setting.name}` | {value} | {default} | {setting.what} |"


def main() -> None:
    """Write the page."""
    PAGE.write_text(page())


if __name__ == "__main__":
    main()
