"""Every page over HTTP, without a browser: what it shows at which moment, and what it refuses."""

import html
import json
import re
from datetime import UTC, datetime
from urllib.parse import quote
from uuid import UUID, uuid5

import httpx
import pytest

import headwater
from headwater.console.addresses import key_address
from tests.console.airline import SPACE
from tests.console.conftest import Running
from tests.console.forms import shown

BALANCE = quote('["balance","1"]')


@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("/", "Needs attention parked mailer 1 parked"),
        ("/streams", "account 48"),
        ("/streams?category=account", "account-3 12"),
        ("/stream?name=account-0", "State after version 12"),
        ("/events", "newest first"),
        ("/events?type=Debited", "Debited account-3"),
        ("/events?tag=claim:claim-0000", "Debited account-0"),
        ("/event?stream=claim-2000&version=1", "ClaimOpened position 5"),
        ("/keys", "balance"),
        (f"/keys?key={BALANCE}", '("balance", "1")'),
        ("/commits", "newest first"),
        ("/consumers", "Parked events of mailer"),
        ("/consumers?projection=totals", "account-1 Debited 8 ValueError: an amount of 240000"),
    ],
)
def test_each_page_shows_what_it_is_about(pages: httpx.Client, address: str, words: str) -> None:
    assert words in shown(pages.get(address))


def test_a_stream_is_shown_as_it_was_at_a_commit(
    pages: httpx.Client, airline_console: Running
) -> None:
    with headwater.connect_blocking(airline_console.server.url) as db:
        event = list(db.read("account-1"))[6]
    text = shown(pages.get(f"/stream?name=account-1&at={event.commit}"))
    assert "version 7 of 12" in text
    assert "~ changed debits 6 7 +1" in text
    assert "Past" in text
    before = shown(pages.get(f"/stream?name=account-1&at={event.commit - 1}"))
    assert "version 6 of 12" in before
    compared = shown(pages.get(f"/stream?name=account-1&at={event.commit}&vs=1"))
    assert "State at version 7, from version 0" in compared
    assert "debits 0 7 +7" in compared


def test_the_state_says_which_snapshot_it_was_made_of_and_whether_that_agrees(
    pages: httpx.Client,
) -> None:
    text = shown(pages.get("/stream?name=account-0"))
    assert "Folded by account, schema 1. Made from the snapshot at version 10" in text
    assert "which agrees with its events" in text


def test_a_stream_that_begins_later_leads_to_its_first_event(pages: httpx.Client) -> None:
    text = shown(pages.get("/stream?name=account-3&at=2"))
    assert "Not begun" in text
    assert "No such stream" in shown(pages.get("/stream?name=account-99"), 404)


def test_keys_are_shown_as_they_were(pages: httpx.Client, airline_console: Running) -> None:
    with headwater.connect_blocking(airline_console.server.url) as db:
        commit = next(iter(db.read("account-1"))).commit
    assert "999,000" in shown(pages.get(f"/keys?key={BALANCE}&at={commit}"))
    assert "absent" in shown(pages.get(f"/keys?key={BALANCE}&at={commit - 1}"))
    then = shown(pages.get(f"/keys?key={BALANCE}&vs={commit}"))
    assert f"At commit {commit} it was 999,000" in then


def test_a_number_says_what_it_is_made_of_and_which_change_stands_out(pages: httpx.Client) -> None:
    text = shown(pages.get(f"/keys?key={BALANCE}"))
    assert "Value at the beginning 999,000" in text
    assert "Debited billing 11 −250,590" in text
    assert "stands out The largest change is −240,000 at commit" in text
    assert "226 times the median" in text


def test_the_history_of_a_key_has_the_events_beside_each_change(pages: httpx.Client) -> None:
    text = shown(pages.get(f"/keys?key={BALANCE}"))
    assert re.search(r"History Commit .* Debited 748,410 −1,110 .* Debited 999,000 new", text)


def test_a_value_of_a_model_is_explained_by_the_events_that_made_it(pages: httpx.Client) -> None:
    key = quote('["$model","totals",1,"account-0"]')
    text = shown(pages.get(f"/keys?key={key}"))
    assert "12 of 43 events changed it" in text
    assert "The handler gives the same value again" in text
    assert "95 Debited account-0" not in text
    assert re.search(r"Debited account-0 11,550 12,660", text)


def test_a_projection_is_verified_with_the_handlers_of_the_application(
    pages: httpx.Client,
) -> None:
    text = shown(pages.get("/verify?projection=totals"))
    assert "43 events, twice" in text
    assert "Equal Two runs of the handler gave the same" in text
    assert "is not defined here" in shown(pages.get("/verify?projection=nobody"), 400)


def test_an_event_has_its_cause_and_its_effects_as_a_tree(pages: httpx.Client) -> None:
    effect = shown(pages.get("/event?stream=account-1&version=8"))
    assert "ClaimOpened" in effect
    assert re.search(r"2 events ClaimOpened \S+ claim-1007 by desk Debited \+", effect)
    cause = shown(pages.get("/event?stream=claim-1007&version=1&at=2"))
    assert "later than the moment that is shown" in cause


def test_groups_are_shown_as_they_were(pages: httpx.Client, airline_console: Running) -> None:
    with headwater.connect_blocking(airline_console.server.url) as db:
        debited = next(iter(db.read("account-1"))).commit
    text = shown(pages.get(f"/consumers?group=mailer&at={debited}"))
    assert "mailer has no parked events" in text
    assert re.search(r"mailer lag \d category account working –", text)


@pytest.mark.parametrize("axis", ["time", "commits"])
def test_the_track_has_slices_of_time_or_of_commits(pages: httpx.Client, axis: str) -> None:
    query: dict[str, str | int] = {"axis": axis, "low": 1, "high": 100, "n": 50}
    marks = pages.get("/track", params=query).json()["marks"]
    assert 20 < len(marks) <= 51
    assert [marks[0][0], marks[-1][0]] == [0, 100]
    assert marks == sorted(marks)
    if axis == "time":
        # Time begins with the first commit, and not in 1970.
        assert marks[-1][1] - marks[0][1] < 3600_000
    assert pages.get("/track", params={"low": 5, "high": 5}).json() == {"marks": []}


def test_a_commit_is_shown_as_one_transaction(
    pages: httpx.Client, airline_console: Running
) -> None:
    with headwater.connect_blocking(airline_console.server.url) as db:
        commit = next(iter(db.read("account-1"))).commit
    text = shown(pages.get(f"/commits?commit={commit}"))
    assert f"Commit {commit}" in text
    assert "Debited" in text
    assert '+ added ("balance", "1") 999,000' in text
    assert '~ changed ("claims", "claim-1000") {"state":"open"' in text


def test_an_event_is_found_by_its_id(pages: httpx.Client) -> None:
    identity = uuid5(SPACE, "account-2/3")
    found = pages.get(f"/event?id={identity}", follow_redirects=True)
    assert "ClaimOpened" in shown(found)
    assert found.url.params["stream"] == "claim-2003"
    assert "no event" in shown(pages.get(f"/event?id={UUID(int=5)}"), 404)
    assert "no UUID" in shown(pages.get("/event?id=zzz"), 400)


def test_a_time_in_an_address_becomes_a_commit(pages: httpx.Client) -> None:
    moved = pages.get("/streams", params={"at": datetime.now(UTC).isoformat(), "category": "claim"})
    assert moved.status_code == 303
    assert re.fullmatch(r"/streams\?category=claim&at=\d+", moved.headers["location"])
    assert pages.get("/?at=-0.001s").status_code == 303
    assert pages.get("/?at=999999999").status_code == 303
    assert "neither a commit nor a time" in shown(pages.get("/?at=yesterday"), 400)


@pytest.mark.parametrize("name", ["..", 'a"b<c>/d%2F#?'])
def test_streams_of_any_name_have_an_address(pages: httpx.Client, name: str) -> None:
    page = pages.get("/streams").text
    address = next(
        html.unescape(each)
        for each in re.findall(r'data-href="(/stream\?[^"]*)"', page)
        if httpx.URL(html.unescape(each)).params["name"] == name
    )
    assert f"{name} version 1" in shown(pages.get(address)).replace("  ", " ")


@pytest.mark.parametrize(
    "key",
    [
        ("odd", b"\x00\xff/%2F?&"),
        ("odd", '"><script>alert(1)</script>'),
        ("odd", UUID(int=7), datetime(2026, 1, 2, tzinfo=UTC)),
        ("odd", "a/../b", -5, 1.5, True, None, ("x", 1)),
        ("odd", "\u202egnp.exe"),
    ],
)
def test_keys_of_any_kind_have_an_address(pages: httpx.Client, key: headwater.Key) -> None:
    assert isinstance(key, tuple)
    text = shown(pages.get("/keys", params={"key": key_address(key)}))
    assert "Value" in text
    assert "Value absent" not in text


def test_nothing_of_the_data_becomes_markup(pages: httpx.Client) -> None:
    with_markup = (
        "/",
        "/events",
        "/streams",
        f"/keys?prefix={quote(json.dumps(['odd']))}",
        "/stream?name=" + quote('a"b<c>/d%2F#?'),
        "/stream?name=" + quote('"><script>alert(9)</script>'),
        "/events?type=" + quote('"><script>alert(9)</script>'),
        "/consumers?done=" + quote("<script>alert(9)</script>"),
    )
    for address in with_markup:
        response = pages.get(address)
        scripts = re.findall(r"<script[^>]*>", response.text)
        assert all(each.startswith('<script src="/static/') for each in scripts), address
        for tag in ("<i>Odd", "<b>field", "<u>me", "<c>", "<img", "onerror=a"):
            assert tag not in response.text or tag == "onerror=a", (address, tag)
        # A character that changes the direction of text is written as an escape.
        assert "\u202e" not in response.text, address


def test_what_cannot_be_read_says_so(pages: httpx.Client) -> None:
    assert "no event at position 99999" in shown(pages.get("/event?position=99999"), 404)
    assert "is no position" in shown(pages.get("/event?position=x"), 400)
    assert "is no key" in shown(pages.get("/keys?key=zzz"), 400)
    assert "Not found" in shown(pages.get("/groups/replay?group=nobody"), 404)


def test_find_offers_streams_keys_commits_and_events(pages: httpx.Client) -> None:
    def kinds(text: str) -> set[str]:
        return {one["kind"] for one in pages.get("/find", params={"q": text}).json()["found"]}

    assert kinds("account-1") == {"Stream"}
    assert kinds("balance 1") == {"Key"}
    assert kinds('["balance","1"]') == {"Key"}
    assert kinds("12") == {"Moment", "Event"}
    assert kinds(str(uuid5(SPACE, "account-2/3"))) == {"Event"}
    assert kinds("nothing of this") == set()


def test_new_commits_are_pushed(pages: httpx.Client, airline_console: Running) -> None:
    with headwater.connect_blocking(airline_console.server.url) as db:
        newest = db.ping().commit
        with pages.stream("GET", f"/live?after={newest}") as response:
            assert response.headers["content-type"].startswith("text/event-stream")
            db.put(("pushed",), 1)
            line = next(each for each in response.iter_lines() if each.startswith("data:"))
    assert json.loads(line[5:])["commit"] > newest


def test_a_fragment_is_the_page_without_its_frame(pages: httpx.Client) -> None:
    fragment = pages.get("/streams", headers={"X-Fragment": "1"}).text
    assert "<main" in fragment
    assert "<html" not in fragment
