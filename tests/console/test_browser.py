"""The console in Chromium: the slider, keys, live pages, acts, rights, and how wide pages are.

Debian's packages `chromium` and `chromium-driver` are enough; `make test-console` installs them
where it may. Without a browser these tests are skipped.
"""

import re
import shutil
from collections.abc import Iterator
from typing import Any

import pytest

import headwater
from tests.console.conftest import Running

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine: make test-console"),
]

PAGES = (
    "/",
    "/streams",
    "/stream?name=account-1",
    "/stream?name=account-1&at=60&vs=20",
    "/events",
    "/event?stream=account-1&version=8",
    "/keys?key=%5B%22balance%22%2C%221%22%5D",
    "/keys?prefix=%5B%22odd%22%5D",
    "/commits?commit=30",
    "/consumers?group=mailer",
    "/consumers?projection=totals",
    "/groups/discard?group=mailer",
    "/stream?name=nobody",
    "/?at=nonsense",
)

FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=list(FLAGS))
        yield chromium
        chromium.close()


class Tab:
    """A page of the browser. At its end there must have been no error of a script or policy."""

    def __init__(self, page: Any, base: str) -> None:
        self.page = page
        self.base = base
        self.problems: list[str] = []
        self.hosts: set[str] = set()
        page.set_default_timeout(15_000)
        page.on("pageerror", lambda error: self.problems.append(str(error)))
        page.on("console", self._said)
        page.on("request", lambda request: self.hosts.add(request.url.split("/")[2]))

    def _said(self, message: Any) -> None:
        # Pages with an error have the status of that error, which the browser reports.
        if message.type == "error" and "the server responded with a status" not in message.text:
            self.problems.append(message.text)

    def open(self, address: str) -> None:
        self.page.goto(self.base + address, wait_until="load")

    def text(self) -> str:
        return " ".join(str(self.page.inner_text("main")).split())

    def expect(self, words: str) -> None:
        self.page.get_by_text(words).first.wait_for()

    def at(self) -> str | None:
        found = re.search(r"[?&]at=(\d+)", self.page.url)
        return found[1] if found else None

    def expect_commit(self, commit: int | None) -> None:
        """Wait until the page that is shown is of a commit; None: until it is live."""
        live = "1" if commit is None else "0"
        chosen = "" if commit is None else f'[data-at="{commit}"]'
        self.page.locator(f'#time[data-live="{live}"]{chosen}').wait_for()


@pytest.fixture
def tab(browser: Any, airline_console: Running) -> Iterator[Tab]:
    context = browser.new_context(viewport={"width": 1440, "height": 900})
    tab = Tab(context.new_page(), airline_console.url)
    yield tab
    context.close()
    assert not tab.problems
    assert tab.hosts <= {airline_console.url.split("/")[2]}


@pytest.fixture
def commits(airline_console: Running) -> list[int]:
    """The commits of the events of account-1."""
    with headwater.connect_blocking(airline_console.server.url) as db:
        return [event.commit for event in db.read("account-1")]


@pytest.mark.parametrize("width", [1440, 1024, 390])
def test_every_page_fits_its_width_and_runs_without_errors(tab: Tab, width: int) -> None:
    tab.page.set_viewport_size({"width": width, "height": 844})
    for address in PAGES:
        tab.open(address)
        assert tab.page.locator("h1").count() == 1, address
        wide = tab.page.evaluate("document.documentElement.scrollWidth")
        assert wide <= width, f"{address} is {wide} pixels wide"


def test_each_button_of_a_parked_event_is_on_a_telephone(tab: Tab) -> None:
    # The second one was cut off: both stood on one line, in a cell that hid what did not fit.
    tab.page.set_viewport_size({"width": 390, "height": 844})
    tab.open("/consumers?projection=totals")
    buttons = tab.page.locator(".acts-cell .btn").all()
    assert len(buttons) >= 2
    for button in buttons:
        box = button.bounding_box()
        assert box is not None
        assert box["x"] + box["width"] <= 390


def test_the_handle_of_the_time_bar_is_dragged_and_back_undoes_it(tab: Tab) -> None:
    tab.open("/stream?name=account-1")
    box = tab.page.locator("#track").bounding_box()
    middle = box["y"] + box["height"] / 2
    tab.page.mouse.move(box["x"] + box["width"] - 3, middle)
    tab.page.mouse.down()
    for part in (0.8, 0.6, 0.45, 0.3):
        tab.page.mouse.move(box["x"] + box["width"] * part, middle)
        # The page of a move may come, and replace the track, before the next move.
        tab.page.locator('#time[data-live="0"]').wait_for()
    tab.page.mouse.up()
    tab.page.locator('#time[data-live="0"]').wait_for()
    tab.expect("later than this moment")
    assert tab.at() is not None
    tab.page.go_back()
    tab.expect_commit(None)
    assert "later than this moment" not in tab.text()


def test_keys_move_the_moment_and_the_state_follows(tab: Tab, commits: list[int]) -> None:
    tab.open(f"/stream?name=account-1&at={commits[5]}")
    assert "State after version 6" in tab.text()
    tab.page.keyboard.press("{")
    tab.expect_commit(commits[4])
    assert "State after version 5" in tab.text()
    tab.page.keyboard.press("}")
    tab.expect_commit(commits[5])
    tab.page.keyboard.press("]")
    tab.expect_commit(commits[5] + 1)
    tab.page.keyboard.press("[")
    tab.expect_commit(commits[5])
    tab.page.focus("#track")
    tab.page.keyboard.press("Shift+ArrowLeft")
    tab.expect_commit(commits[5] - 10)
    assert tab.page.evaluate("document.activeElement.id") == "track"
    tab.page.keyboard.press("p")
    tab.expect("Compared with")
    tab.page.keyboard.press("l")
    tab.expect_commit(None)
    assert "from version" in tab.text()
    tab.page.keyboard.press("g")
    tab.page.keyboard.press("k")
    tab.page.wait_for_url("**/keys*")


def test_a_moment_is_typed_into_the_field(
    tab: Tab, commits: list[int], airline_console: Running
) -> None:
    with headwater.connect_blocking(airline_console.server.url) as db:
        newest = db.ping().commit
    tab.open("/stream?name=account-1")
    tab.page.keyboard.press("@")
    tab.page.keyboard.type(str(commits[2]))
    tab.page.keyboard.press("Enter")
    tab.expect_commit(commits[2])
    tab.page.keyboard.press("@")
    tab.page.keyboard.type("-0s")
    tab.page.keyboard.press("Enter")
    tab.expect_commit(newest)
    tab.page.keyboard.press("@")
    tab.page.keyboard.type("whenever")
    tab.page.keyboard.press("Enter")
    tab.expect("neither a commit nor a time")


def test_playing_goes_from_change_to_change_and_ends_live(tab: Tab, commits: list[int]) -> None:
    tab.open(f"/stream?name=account-1&at={commits[-2]}")
    tab.page.keyboard.press(" ")
    tab.expect_commit(commits[-1])
    tab.expect_commit(None)


def test_a_row_of_a_stream_moves_to_its_event(tab: Tab, commits: list[int]) -> None:
    tab.open("/stream?name=account-1")
    for _ in range(3):
        tab.page.keyboard.press("j")
    tab.page.keyboard.press("Enter")
    tab.expect_commit(commits[-3])
    assert tab.page.locator('tr[aria-selected="true"] td').first.inner_text() == "10"


def test_find_leads_to_a_stream(tab: Tab) -> None:
    tab.open("/")
    tab.page.keyboard.press("/")
    tab.page.keyboard.type("account-2")
    tab.page.locator("#fl a").first.wait_for()
    tab.page.keyboard.press("Enter")
    tab.page.wait_for_url("**/stream?name=account-2*")
    assert "version 12" in tab.text()


def test_new_events_arrive_on_the_page_of_events(tab: Tab, airline_console: Running) -> None:
    tab.open("/events")
    with headwater.connect_blocking(airline_console.server.url) as db:
        db.append("letters", headwater.Event("ArrivedLive", {"n": 1}))
    tab.expect("ArrivedLive")
    assert tab.page.locator("tr.fresh").count() >= 1


def test_branches_of_keys_open_and_a_key_shows_its_value(tab: Tab) -> None:
    tab.open("/keys")
    tab.page.locator(".keys summary a", has_text="balance").click()
    tab.page.get_by_role("link", name='"3"').click()
    tab.page.wait_for_url("**/keys?key=*")
    tab.expect('("balance", "3")')


def test_a_parked_event_is_replayed_after_a_question(tab: Tab, airline_console: Running) -> None:
    tab.open("/consumers?group=mailer")
    assert "SMTP 550: mailbox full" in tab.text()
    tab.page.locator("td .btn", has_text="Replay").first.click()
    tab.expect("Replay event")
    assert "Debited, version 3 of account-2" in tab.text()
    tab.page.get_by_role("button", name="Replay").click()
    tab.expect("1 parked events are delivered again")
    with headwater.connect_blocking(airline_console.server.url) as db:
        assert db.groups.info("mailer").parked == 0


def test_a_parked_stream_is_skipped_with_the_handlers_of_the_application(
    tab: Tab, airline_console: Running
) -> None:
    tab.open("/consumers?projection=totals")
    tab.page.locator("td .btn", has_text="Retry").first.click()
    tab.page.get_by_role("button", name="Retry").click()
    tab.expect("account-1 failed again and stays parked")
    tab.page.locator("td .btn", has_text="Skip").first.click()
    assert "left out of the model" in tab.text()
    tab.page.get_by_role("button", name="Skip").click()
    tab.expect("account-1 goes on")
    with headwater.connect_blocking(airline_console.server.url) as db:
        assert db.projections.parked("totals") == []


def test_nothing_can_be_done_in_the_past(tab: Tab, airline_console: Running) -> None:
    with headwater.connect_blocking(airline_console.server.url) as db:
        earlier = db.ping().commit - 1
    tab.open(f"/consumers?projection=totals&at={earlier}")
    # Verifying writes nothing.
    assert tab.page.locator("main a.btn").all_inner_texts() == ["Verify"]


def test_the_theme_is_chosen_and_kept(tab: Tab) -> None:
    tab.open("/")
    background = "getComputedStyle(document.body).backgroundColor"
    assert tab.page.evaluate(background) == "rgb(255, 255, 255)"
    tab.page.get_by_role("button", name="Theme").click()
    assert tab.page.evaluate(background) == "rgb(16, 19, 23)"
    tab.open("/streams")
    assert tab.page.evaluate(background) == "rgb(16, 19, 23)"


def test_a_user_without_rights_logs_in_and_sees_what_is_missing(
    browser: Any, guarded_console: Running
) -> None:
    context = browser.new_context()
    tab = Tab(context.new_page(), guarded_console.url)
    tab.open("/streams?category=account")
    tab.page.get_by_label("User").fill("bob")
    tab.page.get_by_label("Password").fill("bob's password")
    tab.page.get_by_role("button", name="Log in").click()
    tab.page.wait_for_url("**/streams?category=account")
    assert "account-ann" in tab.text()
    tab.open("/stream?name=salary-ann")
    assert "needs the right read:stream" in tab.text()
    assert "77,777" not in tab.text()
    tab.open("/keys")
    assert "read:keys:balance" in tab.text()
    context.close()
    assert not tab.problems
