"""A real Prometheus with the files of config/: the addresses of a test in place of theirs, and shorter times.

async with prometheus(tmp_path, ["127.0.0.1:1985"]) as server:
    await server.query("pyrtmp_ready")
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import AsyncIterator, Iterable
from pathlib import Path
from typing import Any

import aiohttp
from clients_process import running, tail

from config.ports import free_ports
from tests.cluster.workers.real_node import eventually

CONFIG = Path(__file__).parents[2] / "config"
PATIENCE = 60.0

_DURATION = re.compile(r"\b\d+[smhd]\b")
_TARGETS = re.compile(r"(?m)(?:^ +- 10\.0\.0\.\d+:1985\n)+")


class Prometheus:
    """The server's HTTP API."""

    def __init__(self, http: aiohttp.ClientSession) -> None:
        self._http = http

    async def ask(self, path: str, **parameters: str) -> Any:
        async with self._http.get(f"/api/v1/{path}", params=parameters) as response:
            answer = await response.json()
        assert answer["status"] == "success", answer
        return answer["data"]

    async def query(self, expression: str) -> list[dict[str, Any]]:
        """What an expression gives now; without an error, and without a warning."""
        data = await self.ask("query", query=expression)
        result: list[dict[str, Any]] = data["result"]
        return result

    async def all_up(self, targets: Iterable[str]) -> bool:
        """Whether these nodes answer it, and no other."""
        up = [each["metric"]["instance"] for each in await self.query('up{job="pyrtmp"} == 1')]
        return sorted(up) == sorted(targets)

    async def rules(self) -> list[dict[str, Any]]:
        """Alerts as they are now."""
        return [rule for group in (await self.ask("rules", type="alert"))["groups"] for rule in group["rules"]]

    async def firing(self) -> list[dict[str, Any]]:
        """Alerts that fire, each with its labels and annotations."""
        return [each for each in (await self.ask("alerts"))["alerts"] if each["state"] == "firing"]


@contextlib.asynccontextmanager
async def prometheus(directory: Path, targets: Iterable[str]) -> AsyncIterator[Prometheus]:
    """For the length of the block, which begins when it answers."""
    (directory / "token").write_text("token")
    text = (CONFIG / "prometheus.yml").read_text().replace("10s", "1s")
    text = text.replace("/etc/prometheus/pyrtmp-token", str(directory / "token"))
    text, count = _TARGETS.subn("".join(f"          - {target}\n" for target in targets), text)
    assert count == 1
    (directory / "prometheus.yml").write_text(text)
    (directory / "alerts.yml").write_text(in_seconds((CONFIG / "alerts.yml").read_text()))
    [port] = free_ports(1)
    log = directory / "prometheus.log"
    argv = (
        "prometheus", f"--config.file={directory / 'prometheus.yml'}",
        f"--storage.tsdb.path={directory / 'data'}", f"--web.listen-address=127.0.0.1:{port}",
    )  # fmt: skip
    async with running(argv, log=log) as process, aiohttp.ClientSession(f"http://127.0.0.1:{port}") as http:

        async def ready() -> bool:
            assert process.returncode is None, tail(log)
            try:
                async with http.get("/-/ready") as response:
                    return response.status == 200
            except aiohttp.ClientConnectionError:
                return False

        await eventually(ready, PATIENCE)
        yield Prometheus(http)


def in_seconds(rules: str) -> str:
    """The same rules for a test that does not wait for minutes: only durations differ."""
    soon = re.sub(r"(?m)^( +for:) \w+$", r"\1 1s", rules)
    soon = re.sub(r"\[(\d+)m\]", lambda minutes: f"[{int(minutes[1]) * 2}s]", soon)
    assert _DURATION.sub("", soon) == _DURATION.sub("", rules)
    assert set(_DURATION.findall(soon)) == {"1s", "10s", "20s"}
    return soon
