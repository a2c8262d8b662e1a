"""A real Prometheus with the files of config/: it scrapes three nodes, answers what the dashboard asks, and alerts."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from cluster.metrics_reference import reference
from config.ports import free_ports
from tests.cluster.topologies import Cluster, cluster
from tests.cluster.workers.real_node import eventually

CONFIG = Path(__file__).parents[2] / "config"
PATIENCE = 30.0
VARIABLES = {"$__rate_interval": "10s", "$instance": ".*"}
"""Of Grafana."""
DASHBOARD = json.loads((CONFIG / "grafana.json").read_text())
EXPRESSIONS = sorted({target["expr"] for panel in DASHBOARD["panels"] for target in panel.get("targets", ())})


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

    async def up(self) -> list[str]:
        """Nodes that answer it."""
        return [each["metric"]["instance"] for each in await self.query('up{job="pyrtmp"} == 1')]

    async def rules(self) -> list[dict[str, Any]]:
        """Alerts as they are now."""
        return [rule for group in (await self.ask("rules", type="alert"))["groups"] for rule in group["rules"]]

    async def firing(self) -> dict[str, dict[str, Any]]:
        """One of each alert that fires, by name."""
        alerts = (await self.ask("alerts"))["alerts"]
        return {each["labels"]["alertname"]: each for each in alerts if each["state"] == "firing"}


@contextlib.asynccontextmanager
async def prometheus(directory: Path, targets: list[str], token: str) -> AsyncIterator[Prometheus]:
    """With the addresses, the token and, not to wait for minutes, the times of a test."""
    (directory / "token").write_text(token)
    text = (CONFIG / "prometheus.yml").read_text().replace("10s", "1s")
    text = text.replace("/etc/prometheus/pyrtmp-token", str(directory / "token"))
    addresses = iter(targets)
    text, count = re.subn(r"10\.0\.0\.\d+:1985", lambda _: next(addresses), text)
    assert count == len(targets)
    (directory / "prometheus.yml").write_text(text)
    alerts, count = re.subn(r"(?m)^        for: \w+$", "        for: 1s", (CONFIG / "alerts.yml").read_text())
    assert count > 10
    (directory / "alerts.yml").write_text(alerts)
    [port] = free_ports(1)
    with (directory / "prometheus.log").open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            "prometheus", f"--config.file={directory / 'prometheus.yml'}",
            f"--storage.tsdb.path={directory / 'data'}", f"--web.listen-address=127.0.0.1:{port}",
            stdin=subprocess.DEVNULL, stdout=log, stderr=log,
        )  # fmt: skip
    try:
        async with aiohttp.ClientSession(f"http://127.0.0.1:{port}") as http:

            async def ready() -> bool:
                assert process.returncode is None, (directory / "prometheus.log").read_text()
                try:
                    async with http.get("/-/ready") as response:
                        return response.status == 200
                except aiohttp.ClientConnectionError:
                    return False

            await eventually(ready, PATIENCE)
            yield Prometheus(http)
    finally:
        process.terminate()
        await process.wait()


@pytest.mark.slow
@pytest.mark.timeout(240)
@pytest.mark.skipif(shutil.which("prometheus") is None, reason="prometheus is not installed")
async def test_three_nodes(tmp_path: Path) -> None:
    async with cluster(tmp_path) as nodes:
        nodes.with_registry("stream.play_wait_seconds=1")
        [dead] = free_ports(1)
        await nodes.start("o1", f'forward.apps={{"fwd": ["127.0.0.1:{dead}"]}}')
        await nodes.start("o2", "node.workers=1")
        await nodes.start("e1", "node.role=edge", f"edge.origins=127.0.0.1:{dead}")
        targets = [f"127.0.0.1:{node.ports['api']}" for node in nodes.nodes.values()]
        async with prometheus(tmp_path, targets, "token") as server:
            await eventually(lambda: _all_up(server, targets), PATIENCE)
            await _use(nodes)
            await _every_metric_is_there(server)
            for node in nodes.nodes.values():
                await _promtool_is_content(node.http)
            await _every_expression_answers(server)
            assert await server.firing() == {}
            await _faults_are_told(nodes, server)


async def _all_up(server: Prometheus, targets: list[str]) -> bool:
    return sorted(await server.up()) == sorted(targets)


async def _use(nodes: Cluster) -> None:
    """A stream that is watched in every way, so that histograms have something in them."""
    o1, e1 = nodes.nodes["o1"], nodes.nodes["e1"]
    await o1.publish("live/cam")
    viewers = [await e1.play("live/cam"), await o1.play("live/cam")]
    async with e1.http.get(f"http://127.0.0.1:{e1.ports['http']}/live/cam.flv") as flv:
        for viewer in viewers:
            await viewer.until(lambda frames: len(frames) > 50)
        assert await flv.content.readexactly(100_000)
    await e1.leave()
    await o1.leave(viewers[1])


async def _every_metric_is_there(server: Prometheus) -> None:
    """That METRICS.md lists, from all three nodes."""
    for name, kind in re.findall(r"(?m)^\| `(\w+)` \| (\w+)", reference()):
        found = await server.query(f"count by (instance) ({name}{'_count' if kind == 'histogram' else ''})")
        # A node that refused nobody has no reason to tell; these have no certificate.
        missing = ("pyrtmp_refused_total", "pyrtmp_tls_certificate_expiry_timestamp_seconds")
        assert len(found) == 3 or name in missing, name


async def _promtool_is_content(http: aiohttp.ClientSession) -> None:
    """With names, kinds and help of the metrics."""
    async with http.get("/metrics") as response:
        page = await response.read()
    process = await asyncio.create_subprocess_exec(
        "promtool", "check", "metrics", stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    said, _ = await process.communicate(page)
    assert (process.returncode, said) == (0, b"")


async def _every_expression_answers(server: Prometheus) -> None:
    rules = await server.rules()
    assert len(rules) > 10
    for rule in rules:
        assert rule["health"] in ("ok", "unknown") and not rule.get("lastError"), rule
        await server.query(rule["query"])
    empty = []
    for expression in EXPRESSIONS:
        for name, value in VARIABLES.items():
            expression = expression.replace(name, value)
        assert "$" not in expression
        if not await server.query(expression):
            empty.append(expression)
    # There are no refusals and, on some nodes, nobody to divide by.
    assert [each for each in empty if "refused_total" not in each] == []


async def _faults_are_told(nodes: Cluster, server: Prometheus) -> None:
    o1, o2, e1 = (nodes.nodes[name] for name in ("o1", "o2", "e1"))

    async def told(*names: str) -> None:
        async def all_fire() -> bool:
            return set(names) <= set(await server.firing())

        try:
            await eventually(all_fire, PATIENCE)
        except AssertionError:
            raise AssertionError(f"{set(names) - set(await server.firing())} do not fire") from None

    silent = await o1.publish("live/late")
    await eventually(lambda: silent.sent > 50)
    silent.fall_silent()
    await o1.publish("fwd/cam")
    for node in (o1, e1):
        await asyncio.gather(*(_miss(node.http, node.ports["http"]) for _ in range(15)))
    for pid in (await o2.pids()).values():
        os.kill(pid, signal.SIGKILL)
    await told("IngestBehindRealTime", "ForwardDown", "StreamFailureRate", "PullsFail", "WorkerReplaced")
    nodes.redis.kill()
    await told("RegistryAway")
    await nodes.kill("o2")
    await told("NodeDown")
    for alert in (await server.firing()).values():
        for text in alert["annotations"].values():
            assert text and "<no value>" not in text and "{{" not in text, alert


async def _miss(http: aiohttp.ClientSession, port: int) -> None:
    """Ask for a stream that nobody publishes."""
    async with http.get(f"http://127.0.0.1:{port}/live/nobody.flv") as response:
        assert response.status == 404
