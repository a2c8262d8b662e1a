"""``cluster.api_connection``: what fails here.  What is not HTTP: ``test_attacks``."""

from __future__ import annotations

import aiohttp
import pytest
from structlog.testing import capture_logs

from cluster.node import Node


async def test_what_fails_here_is_one_line_and_a_500(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: object) -> None:
        raise RuntimeError("a secret")

    monkeypatch.setattr("cluster.api.stream_fields", fail)
    monkeypatch.setattr(node.facts, "streams", lambda *page: [None])
    async with aiohttp.ClientSession(f"http://{node.api_address}") as http:
        with capture_logs() as log:
            async with http.get("/api/v1/streams") as answer:
                assert answer.status == 500 and answer.headers["Server"] == "pyrtmp"
                assert await answer.json() == {"code": 500, "error": "the server failed to answer"}
        assert [each["event"] for each in log] == ["internal_error"] and "a secret" in log[0]["error"]
        async with http.get("/api/v1/version") as answer:
            assert answer.status == 200
    assert node.server.counters.refused == {"internal": 1}
