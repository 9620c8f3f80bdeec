"""What a console refuses: foreign hosts and sites, forms without a token, users without rights."""

import httpx
import pytest

from tests.console.conftest import Running
from tests.console.forms import log_in, members, shown


def test_other_hosts_are_refused(pages: httpx.Client) -> None:
    for host in ("evil.example", "127.0.0.1.evil.example", "", "localhost:1"):
        refused = pages.get("/", headers={"Host": host})
        assert refused.status_code == 403, host
    port = pages.base_url.port
    assert pages.get("/", headers={"Host": f"localhost:{port}"}).status_code == 200


def test_each_page_forbids_what_is_not_its_own(pages: httpx.Client) -> None:
    for address in ("/", "/event?position=99999", "/static/console.js"):
        headers = pages.get(address).headers
        policy = headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert "frame-ancestors 'none'" in policy
        assert headers["x-content-type-options"] == "nosniff"
    assert pages.get("/").headers["cache-control"] == "no-store"


def test_pages_load_nothing_from_elsewhere_and_have_no_style_or_handler_inside(
    pages: httpx.Client,
) -> None:
    for address in ("/", "/streams", "/stream?name=account-1", "/events", "/keys", "/consumers"):
        text = pages.get(address).text
        assert "http://" not in text, address
        assert "https://" not in text, address
        assert ' style="' not in text, address
        assert ' onclick="' not in text, address


def test_an_act_needs_the_token_of_its_page(pages: httpx.Client) -> None:
    page = pages.get("/groups/replay?group=mailer")
    good = members(page.text, "/groups/replay")
    assert good["group"] == "mailer"
    assert pages.post("/groups/replay", data={"group": "mailer"}).status_code == 403
    wrong = {**good, "token": "0" * 64}
    assert pages.post("/groups/replay", data=wrong).status_code == 403
    elsewhere = {"Origin": "https://evil.example"}
    assert pages.post("/groups/replay", data=good, headers=elsewhere).status_code == 403
    with httpx.Client(base_url=pages.base_url, trust_env=False) as other:
        # The token belongs to the cookie of one browser.
        other.get("/")
        assert other.post("/groups/replay", data=good).status_code == 403
    large = {**good, "more": "x" * 100_000}
    assert pages.post("/groups/replay", data=large).status_code == 403


def test_the_past_is_read_only(pages: httpx.Client) -> None:
    assert "the past is read only" in shown(pages.get("/groups/discard?group=mailer&at=30"), 400)
    good = members(pages.get("/groups/discard?group=mailer").text, "/groups/discard")
    refused = pages.post("/groups/discard?at=30", data=good)
    assert "the past is read only" in shown(refused, 400)


def test_people_log_in_and_see_what_their_rights_allow(guarded_console: Running) -> None:
    with guarded_console.client() as client:
        at_first = client.get("/streams?category=account")
        assert at_first.status_code == 303
        assert at_first.headers["location"].startswith("/login?to=")
        assert "refuses this user" in shown(log_in(client, "bob", "wrong"), 403)
        assert client.get("/live").status_code == 401
        assert log_in(client, "bob", "bob's password").status_code == 303
        assert "account-ann" in shown(client.get("/streams?category=account"))
        assert "10" in shown(client.get('/keys?key=["balance","ann"]'))
        assert "Opened" in shown(client.get("/event?stream=account-ann&version=1"))


@pytest.mark.parametrize(
    "address",
    [
        '/keys?key=["payroll","ann"]',
        "/stream?name=salary-ann",
        "/groups/replay?group=mailer",
    ],
)
def test_what_a_user_may_not_see_is_refused_with_the_right_that_it_needs(
    guarded_console: Running, address: str
) -> None:
    with guarded_console.client() as client:
        log_in(client, "bob", "bob's password")
        refused = client.get(address)
        text = shown(refused, 403)
        assert "needs the right" in text
        assert "You may: read:category:account, read:keys:balance" in text
        assert "77" not in text


@pytest.mark.parametrize("address", ["/", "/streams", "/events", "/keys", "/commits", "/consumers"])
def test_a_user_with_hardly_a_right_gets_a_page_and_no_data(
    guarded_console: Running, address: str
) -> None:
    with guarded_console.client() as client:
        log_in(client, "eve", "eve's password")
        response = client.get(address)
        assert response.status_code in (200, 403), response.text[:500]
        assert "salary" not in response.text
        assert "payroll" not in response.text
        assert "77,777" not in response.text


def test_logging_out_ends_the_session(guarded_console: Running) -> None:
    with guarded_console.client() as client:
        log_in(client, "root", "root's password")
        page = client.get("/")
        assert page.status_code == 200
        assert client.post("/logout", data=members(page.text, "/logout")).status_code == 303
        assert client.get("/").status_code == 303


def test_a_login_leads_only_to_pages_of_the_console(guarded_console: Running) -> None:
    for to in ("https://evil.example", "//evil.example", "/\\evil.example"):
        with guarded_console.client() as client:
            page = client.get("/login", params={"to": to})
            given = {**members(page.text, "/login"), "user": "bob", "password": "bob's password"}
            done = client.post("/login", params={"to": to}, data=given)
            assert done.headers["location"] == "/"
