"""Reading the pages of the console, and filling in its forms, without a browser."""

import html
import re

import httpx


def shown(response: httpx.Response, status: int = 200) -> str:
    """The text of a page, without its tags."""
    assert response.status_code == status, response.text[:2000]
    # A name that may be cut in the middle stands in two parts.
    whole = response.text.replace("</span><span>", "")
    text = re.sub(r"<(script|style).*?</\1>|<[^>]*>", " ", whole, flags=re.DOTALL)
    return " ".join(html.unescape(text).split())


def members(page: str, action: str) -> dict[str, str]:
    """The hidden members of a form on a page."""
    form = re.search(
        rf'<form[^>]*method="post" action="{re.escape(action)}[^>]*>(.*?)</form>', page, re.DOTALL
    )
    assert form, f"no form for {action}"
    inputs = re.findall(r'<input type="hidden" name="(\w+)" value="([^"]*)"', form[1])
    return {name: html.unescape(value) for name, value in inputs}


def log_in(client: httpx.Client, user: str, password: str) -> httpx.Response:
    page = client.get("/login")
    given = {**members(page.text, "/login"), "user": user, "password": password}
    return client.post("/login", data=given)
