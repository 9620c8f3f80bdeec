"""The application: requests, read models, and the mailer."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated, Any

import anyio
from fastapi import Depends, FastAPI, HTTPException, Request
from fastapi.responses import JSONResponse
from orders import ORDERS, PRICES, Order, Refused, cancel, evolve, pay, place, ship

import headwater


def shop(url: str) -> FastAPI:
    """The application on the database of a URL."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with headwater.connect(url) as db:
            app.state.db = db
            define_read_models(db)
            await db.groups.ensure("mailer", category="order", types=["Placed", "Shipped"])
            async with db.run_projections(), anyio.create_task_group() as tasks:
                tasks.start_soon(db.consume, "mailer", mail)
                yield
                tasks.cancel_scope.cancel()

    app = FastAPI(title="Order shop", lifespan=lifespan)
    add_requests(app)
    return app


def define_read_models(db: headwater.Database) -> None:
    """What is read often: the orders of a customer, and how much was sold."""

    @db.projection("orders", category="order")
    async def orders(tx: headwater.ProjectionTransaction, event: headwater.RecordedEvent) -> None:
        number = int(event.stream.removeprefix("order-"))
        if event.type == "Placed":
            customer, items = event.data["customer"], event.data["items"]
            total = sum(PRICES[item] * count for item, count in items.items())
            tx.model.put(("customer of", number), customer)
            tx.model.put((customer, number), {"order": number, "total": total, "status": "placed"})
            return
        customer = await tx.model.get(("customer of", number))
        row = await tx.model.get((customer, number))
        tx.model.put((customer, number), row | {"status": event.type.lower()})

    @db.projection("sales", category="order", types=["Placed"])
    async def sales(tx: headwater.ProjectionTransaction, event: headwater.RecordedEvent) -> None:
        for item, count in event.data["items"].items():
            tx.model.add((item,), count)


async def mail(tx: headwater.Transaction, event: headwater.RecordedEvent) -> None:
    """Note a mail to the customer, in the transaction that acknowledges the event."""
    (placed,) = [each async for each in tx.read(event.stream, limit=1)]
    account = await tx.get(("account", placed.data["customer"]))
    text = f"to {account['email']}: order {event.stream[6:]} was {event.type.lower()}"
    tx.put(("mail", event.position), text)


def database_of(request: Request) -> headwater.Database:
    found: headwater.Database = request.app.state.db
    return found


Database = Annotated[headwater.Database, Depends(database_of)]


def add_requests(app: FastAPI) -> None:
    """What customers and the support can ask for."""

    @app.exception_handler(Refused)
    async def refused(request: Request, error: Refused) -> JSONResponse:
        del request
        return JSONResponse({"detail": str(error)}, 409)

    @app.post("/accounts/{name}", status_code=201)
    async def register(db: Database, name: str, email: str) -> dict[str, str]:
        batch = db.batch()
        batch.require_absent(("account", name))
        batch.require_absent(("email", email))
        batch.put(("account", name), {"email": email})
        batch.put(("email", email), name)
        try:
            await db.execute(batch)
        except headwater.ConditionFailed:
            raise Refused("this address has an account") from None
        return {"account": name}

    @app.post("/accounts/{name}/orders", status_code=201)
    async def order(db: Database, name: str, items: dict[str, int]) -> dict[str, int]:
        async def work(tx: headwater.Transaction) -> int:
            if await tx.get(("account", name)) is None:
                raise HTTPException(404, f"there is no account {name}")
            number: int = await tx.get(("orders",), 0) + 1
            tx.put(("orders",), number)
            tx.append(f"order-{number}", place(Order(), name, items), expect=headwater.NO_STREAM)
            return number

        return {"order": await db.run(work)}

    commands = {"pay": pay, "ship": ship, "cancel": cancel}

    @app.post("/orders/{number}/{command}")
    async def change(
        db: Database, number: int, command: str, amount: int | None = None
    ) -> dict[str, str]:
        if command not in commands:
            raise HTTPException(404, f"there is no command {command}")
        arguments = () if amount is None else (amount,)
        await ORDERS.on(db).decide(f"order-{number}", commands[command], *arguments)
        order, _ = await ORDERS.on(db).load(f"order-{number}")
        return {"status": order.status}

    @app.get("/accounts/{name}/orders")
    async def orders_of(db: Database, name: str) -> list[dict[str, Any]]:
        await db.wait_for("orders", await db.newest_position())
        return [row async for _, row in db.model("orders").scan((name,))]

    @app.get("/sales")
    async def sales(db: Database) -> dict[str, int]:
        await db.wait_for("sales", await db.newest_position())
        return {str(key[0]): count async for key, count in db.model("sales").scan()}

    @app.get("/support/orders/{number}")
    async def as_it_was(db: Database, number: int, version: int) -> dict[str, Any]:
        order = Order()
        events = db.read(f"order-{number}", limit=version)
        async for event in events:
            order = evolve(order, event)
        return {"status": order.status, "items": order.items}

    @app.get("/support/orders/{number}/history")
    async def history(db: Database, number: int) -> list[dict[str, Any]]:
        return [
            {"type": event.type, "time": event.time.isoformat(), "data": event.data}
            async for event in db.read(f"order-{number}")
        ]

    @app.get("/support/mails")
    async def mails(db: Database) -> list[str]:
        return [text async for _, text in db.scan(("mail",))]
