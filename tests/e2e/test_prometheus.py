"""A real Prometheus with the files of config/: it scrapes three nodes and answers what the dashboard asks."""

from __future__ import annotations

import asyncio
import json
import re
import shutil
import subprocess
from pathlib import Path

import aiohttp
import pytest
from prometheus import CONFIG, PATIENCE, Prometheus, prometheus

from cluster.metrics_reference import reference
from tests.cluster.topologies import Cluster, cluster
from tests.cluster.workers.real_node import eventually

VARIABLES = {"$__rate_interval": "10s", "$instance": ".*"}
"""Of Grafana."""
DASHBOARD = json.loads((CONFIG / "grafana.json").read_text())
EXPRESSIONS = sorted({target["expr"] for panel in DASHBOARD["panels"] for target in panel.get("targets", ())})


@pytest.mark.slow
@pytest.mark.timeout(240)
@pytest.mark.skipif(shutil.which("prometheus") is None, reason="prometheus is not installed")
async def test_three_nodes(tmp_path: Path) -> None:
    async with cluster(tmp_path) as nodes:
        nodes.with_registry()
        await nodes.start("o1")
        await nodes.start("o2", "node.workers=1")
        await nodes.start("e1", "node.role=edge")
        targets = [f"127.0.0.1:{node.ports['api']}" for node in nodes.nodes.values()]
        async with prometheus(tmp_path, targets) as server:
            await eventually(lambda: server.all_up(targets), PATIENCE)
            await _use(nodes)
            await _every_metric_is_there(server)
            for node in nodes.nodes.values():
                await _promtool_is_content(node.http)
            await _every_expression_answers(server)
            assert await server.firing() == []


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
