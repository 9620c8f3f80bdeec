"""A server, and a scenario. With --serve: the shop on port 8000, until it is interrupted."""

import sys
import tempfile
from pathlib import Path
from typing import Any

from app import shop
from fastapi.testclient import TestClient

import headwater
from headwater.cli.server_process import ServerProcess


def scenario(url: str) -> None:
    with TestClient(shop(url)) as client:

        def post(path: str, **options: Any) -> Any:
            return client.post(path, **options)

        def detail(answer: Any) -> str:
            return f"{answer.status_code} {answer.json()['detail']}"

        registered = post("/accounts/ann?email=ann@example.org")
        print("ann registers:", registered.status_code)
        second = post("/accounts/anna?email=ann@example.org")
        print("another ann with the same address:", detail(second))
        ordered = post("/accounts/ann/orders", json={"tea": 1, "cups": 2})
        print("ann orders tea and cups:", ordered.status_code)
        print("paying too little:", detail(post("/orders/1/pay?amount=1")))
        print("paying:", post("/orders/1/pay?amount=26").json()["status"])
        print("shipping:", post("/orders/1/ship").json()["status"])
        print("cancelling after that:", detail(post("/orders/1/cancel")))
        print("ann's orders:", client.get("/accounts/ann/orders").json())
        print("sold:", client.get("/sales").json())
        wait_for_mails(url)
        print("mails:", client.get("/support/mails").json())
        for version in (1, 2):
            then = client.get(f"/support/orders/1?version={version}").json()
            print(f"support, after event {version}:", then["status"])
        history = client.get("/support/orders/1/history").json()
        print("what happened:", [event["type"] for event in history])


def wait_for_mails(url: str) -> None:
    """Wait for the mailer, which works beside the requests."""
    with (
        headwater.connect_blocking(url) as db,
        db.subscribe(keys=("mail",), after=db.ping().commit) as changes,
    ):
        while db.groups.info("mailer").position < 3 and db.count(("mail",)) < 2:
            next(changes)


def main() -> None:
    with tempfile.TemporaryDirectory() as directory, ServerProcess(Path(directory)) as server:
        if "--serve" in sys.argv:
            import uvicorn

            uvicorn.run(shop(server.url), port=8000)
        else:
            scenario(server.url)


if __name__ == "__main__":
    main()
