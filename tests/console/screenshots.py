"""Takes the pictures of the console for the docs: `make screenshots`.

They show the airline of these tests, in light, dark and on a telephone.
"""

import sys
import tempfile
from pathlib import Path
from typing import Final

import headwater
from headwater.cli.server_process import ServerProcess
from tests.console import airline
from tests.console.conftest import APP, OPTIONS, ROOT, console_process
from tests.console.test_browser import CHROMIUM, FLAGS

FOLDER: Final = ROOT / "docs/guide/console"

SHOTS: Final = (
    ("overview", "/", 1280, 800, "light"),
    ("stream", "/stream?name=account-1&at={moment}&vs=20", 1280, 800, "light"),
    ("consumers-dark", "/consumers?group=mailer", 1280, 800, "dark"),
    ("telephone", "/stream?name=account-1&at={moment}", 390, 844, "light"),
)
"""Name, address, width, height and colours of each picture."""


def main() -> int:
    from playwright.sync_api import sync_playwright

    if CHROMIUM is None:
        print("no chromium on this machine", file=sys.stderr)
        return 1
    FOLDER.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as directory, ServerProcess(Path(directory)) as server:
        with headwater.connect_blocking(server.url) as db:
            airline.fill(db)
            moment = list(db.read("account-1"))[7].commit
        with (
            console_process("--url", server.url, *OPTIONS, *APP) as url,
            sync_playwright() as playwright,
        ):
            chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=list(FLAGS))
            for name, address, width, height, colours in SHOTS:
                context = chromium.new_context(
                    viewport={"width": width, "height": height},
                    color_scheme="dark" if colours == "dark" else "light",
                )
                page = context.new_page()
                page.goto(url + address.format(moment=moment))
                page.locator("#track svg").wait_for()
                page.screenshot(path=FOLDER / f"{name}.png")
                context.close()
            chromium.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
