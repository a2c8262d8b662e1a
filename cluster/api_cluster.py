"""The part of the API that is about other nodes: what is passed on and fetched, who is there, and who should serve."""

from __future__ import annotations

from collections.abc import Callable
from time import monotonic
from typing import Final

from aiohttp import web

from cluster.api_fields import forward_fields, node_fields, pull_fields
from cluster.edge.upstreams import Kind
from cluster.fleet import Fleet
from cluster.neighbours import Neighbours
from cluster.openapi import answers
from cluster.placement import NobodyError, urls
from cluster.reports import Numbers
from pyrtmp.names import StreamKey, make_key, problem

MAX_NAME_BYTES: Final = 1024
"""Longest stream name that is asked about."""

_KINDS: Final[dict[str, Kind]] = {"publish": "publish", "play": "play"}


class ClusterApi:
    """``answer`` makes a response of some fields."""

    def __init__(self, fleet: Fleet, neighbours: Neighbours, answer: Callable[..., web.Response]) -> None:
        self._fleet = fleet
        self._neighbours = neighbours
        self._answer = answer

    def routes(self) -> list[web.RouteDef]:
        """Paths and who answers them."""
        return [
            web.get("/api/v1/forwards", self._get_forwards),
            web.get("/api/v1/pulls", self._get_pulls),
            web.get("/api/v1/nodes", self._get_nodes),
            web.get("/api/v1/place", self._get_place),
        ]

    def summary(self, numbers: Numbers) -> answers.ClusterSummary:
        """For ``/api/v1/summaries``."""
        now = numbers.now
        return {
            "stress": self._neighbours.stress,
            "registry": self._registry(),
            "http_prefix": self._neighbours.prefix,
            "nodes": [node_fields(each) for each in self._neighbours.nodes()],
            "pulls": now.pulls,
            "forwards": now.forwards,
            "forward_failures": numbers.forward_failures,
            "recordings": now.recordings,
            "recorded_files": numbers.recorded_files,
            "recording_failures": numbers.recording_failures,
        }

    async def _get_forwards(self, request: web.Request) -> web.Response:
        now = monotonic()
        answer: answers.ForwardsAnswer = {
            "forwards": [forward_fields(each, now) for each in await self._fleet.forwards()]
        }
        return self._answer(answer)

    async def _get_pulls(self, request: web.Request) -> web.Response:
        answer: answers.PullsAnswer = {"pulls": [pull_fields(each) for each in await self._fleet.pulls()]}
        return self._answer(answer)

    async def _get_nodes(self, request: web.Request) -> web.Response:
        nodes = [node_fields(each) for each in self._neighbours.nodes()]
        answer: answers.NodesAnswer = {"registry": self._registry(), "nodes": nodes}
        return self._answer(answer)

    async def _get_place(self, request: web.Request) -> web.Response:
        kind = _KINDS.get(request.query.get("kind", "publish"))
        if kind is None:
            raise web.HTTPBadRequest(text="kind should be publish or play")
        key = stream_key(request)
        try:
            node = await self._neighbours.place(key, kind)
        except NobodyError as error:
            raise web.HTTPServiceUnavailable(text=str(error), headers={"Retry-After": "1"}) from None
        return self._answer(urls(node, key, self._neighbours.prefix))

    def _registry(self) -> answers.Registry | None:
        facts = self._neighbours.registry
        return None if facts is None else {"url": facts.name, "up": facts.up}


def stream_key(request: web.Request) -> StreamKey:
    """The stream that the query names.  Raises ``HTTPBadRequest``."""
    stream = request.query.get("stream", "").strip("/")
    app, _, name = stream.rpartition("/")
    wrong = problem(stream, MAX_NAME_BYTES) or ("" if app else "a stream is app/name")
    if wrong:
        raise web.HTTPBadRequest(text=f"stream: {wrong}")
    return make_key(app, name)
