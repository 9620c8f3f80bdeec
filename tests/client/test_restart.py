"""A real server that is killed and started again: its clients continue."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import trustme

import headwater
from headwater.cli.server_process import ServerProcess
from tests.client.faces import FACES, run_on


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    with ServerProcess(Path(tmp_path_factory.mktemp("restart"))) as server:
        yield server


@pytest.mark.parametrize("face", FACES)
def test_run_takes_effect_once_although_the_server_is_killed(
    face: str, server: ServerProcess
) -> None:
    async def increment(tx: headwater.Transaction) -> int:
        seen: int = await tx.get(face, 0)
        tx.put(face, seen + 1)
        tx.append(f"counted-{face}", headwater.Event("Counted", seen + 1), expect=seen)
        return seen + 1

    async def scenario(db: headwater.Database) -> None:
        async with db.subscribe(category="counted", prefix=f"counted-{face}") as feed:
            events = feed.events()
            for number in range(1, 41):
                if number == 20:
                    server.kill()
                    server.start()
                assert await db.run(increment) == number
                assert (await anext(events)).data == number
        assert await db.get(face) == 40
        assert (await db.load(f"counted-{face}")).version == 40

    run_on(face, server.url, scenario)


@pytest.mark.parametrize("face", FACES)
def test_a_consumer_rejoins_automatically_and_counts_no_event_twice(
    face: str, server: ServerProcess
) -> None:
    async def count(tx: headwater.Transaction, delivery: headwater.Delivery) -> None:
        seen: int = await tx.get((face, "consumed"), 0)
        assert delivery.event.version == seen + 1
        tx.put((face, "consumed"), seen + 1)
        tx.ack(delivery)

    async def scenario(db: headwater.Database) -> None:
        await db.groups.create(f"group-{face}", category=f"consumed{face}")
        await db.append(f"consumed{face}-1", [headwater.Event("Counted", n) for n in range(40)])
        done = 0
        async with db.join(f"group-{face}", until_caught_up=True) as group:
            async for delivery in group:
                if done == 20:
                    server.kill()
                    server.start()
                try:
                    await db.run(count, delivery)
                except headwater.DeliveryLost:
                    assert done == 20
                done += 1
        assert await db.get((face, "consumed")) == 40

    run_on(face, server.url, scenario)


@pytest.mark.parametrize("face", FACES)
def test_an_idle_client_does_not_notice_a_restart(face: str, server: ServerProcess) -> None:
    async def scenario(db: headwater.Database) -> None:
        await db.put((face, "idle"), 1)
        server.kill()
        server.start()
        assert await db.get((face, "idle")) == 1
        await db.add((face, "idle"), 1)
        server.kill()
        server.start()
        await db.add((face, "idle"), 1)
        assert await db.get((face, "idle")) == 3

    run_on(face, server.url, scenario)


@pytest.mark.parametrize("face", FACES)
def test_a_client_connects_by_a_unix_socket_and_by_tls_with_a_password(
    face: str, tmp_path: Path
) -> None:
    authority = trustme.CA()
    certificate = authority.issue_cert("127.0.0.1")
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    certificate.private_key_and_cert_chain_pem.write_to_path(str(tmp_path / "server.pem"))
    path = tmp_path / "headwater.sock"
    options = ["--unix", str(path), "--tls-cert", str(tmp_path / "server.pem")]

    async def by_path(db: headwater.Database) -> None:
        await db.put("a", 1)
        await db.add_user("ann", "pencil")
        with pytest.raises(headwater.AuthenticationFailed, match=r"connect again|requires a user"):
            await db.get("a")

    async def by_tls(db: headwater.Database) -> None:
        async with db.transaction() as tx:
            assert await tx.get("a") == 1
            tx.put("blob", bytes(2_000_000))
        assert len(await db.get("blob")) == 2_000_000
        (line,) = [line async for line in db.commits() if line.transaction == tx.id]
        assert line.user == "ann"
        assert await db.users() == ["ann"]
        await db.set_password("ann", "crayon")
        with pytest.raises(headwater.HeadwaterError):
            await db.add_user("ann", "again")

    with ServerProcess(tmp_path, options) as server:
        run_on(face, f"headwater+unix://{path}", by_path)
        url = f"headwaters://{server.address}?ca_file={tmp_path}/ca.pem"
        run_on(face, url, by_tls, user="ann", password="pencil")
        with pytest.raises(headwater.AuthenticationFailed):
            run_on(face, url, by_tls, user="ann", password="pencil")
        run_on(face, url, without_users, user="ann", password="crayon")


async def without_users(db: headwater.Database) -> None:
    await db.remove_user("ann")
    assert await db.users() == []
