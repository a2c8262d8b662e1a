from __future__ import annotations

import re
from pathlib import Path

import aiohttp
from prometheus_client.parser import text_string_to_metric_families

from cluster.metrics_reference import reference
from cluster.node import Node
from pyrtmp.aio.client import Client

FILE = Path(__file__).parents[2] / "config" / "METRICS.md"


def test_the_file_is_what_the_code_says() -> None:
    assert FILE.read_text() == reference(), "run: make reference"


def test_labels_and_types() -> None:
    text = reference()
    assert "| `pyrtmp_refused_total` | counter | `reason`: why, as in the log line | Connections" in text
    assert "| `pyrtmp_streams` | gauge | `state`: awaited, live, gone | Streams" in text
    assert "| `pyrtmp_first_frame_seconds` | histogram | `protocol`: rtmp, flv, hls | From" in text
    assert "| `pyrtmp_build_info` | gauge | `loop`; `node`: `node.id`; `python`; `version` | What" in text


async def test_a_node_has_all_of_them_and_no_other(node: Node, live: str) -> None:
    async with await Client.connect(live) as viewer, aiohttp.ClientSession(f"http://{node.api_address}") as http:
        await anext(viewer.play())
        async with http.get("/metrics") as response:
            families = list(text_string_to_metric_families(await response.text()))
    suffixes = {"counter": "_total", "info": "_info"}
    exposed = {family.name + suffixes.get(family.type, "") for family in families}
    listed = re.findall(r"(?m)^\| `(\w+)` ", reference())
    assert len(listed) == len(set(listed))
    # This node has no registry and no certificate.
    assert set(listed) - {"pyrtmp_registry_up", "pyrtmp_tls_certificate_expiry_timestamp_seconds"} == exposed
