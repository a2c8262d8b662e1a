"""The part of the API that tells all there is to say of one stream: ``/api/v1/explain?stream=app/name``."""

from __future__ import annotations

import time
from collections.abc import Callable
from time import monotonic

from aiohttp import web

from cluster.api_cluster import stream_key
from cluster.api_fields import (
    client_fields,
    forward_fields,
    holder_fields,
    pull_fields,
    recording_fields,
    refusal_fields,
    stream_details,
)
from cluster.fleet import Fleet
from cluster.neighbours import Neighbours
from cluster.openapi import answers
from pyrtmp.names import StreamKey


class ExplainApi:
    """``answer`` makes a response of some fields."""

    def __init__(self, fleet: Fleet, neighbours: Neighbours | None, answer: Callable[..., web.Response]) -> None:
        self._fleet = fleet
        self._neighbours = neighbours
        self._answer = answer

    def routes(self) -> list[web.RouteDef]:
        """Paths and who answers them."""
        return [web.get("/api/v1/explain", self._get_explain)]

    async def _get_explain(self, request: web.Request) -> web.Response:
        key = stream_key(request)
        found = await self._fleet.explain(key.app, key.name)
        facts = await self._fleet.stream(key.app, key.name)
        now, wall = monotonic(), time.time()
        answer: answers.ExplainAnswer = {
            "explain": {
                "stream": str(key),
                "facts": None if facts is None else stream_details(facts),
                "publisher": next((client_fields(each) for each in found.clients if each.role == "publish"), None),
                "nodes": [client_fields(each) for each in found.clients if each.role != "publish"],
                "pulls": [pull_fields(each) for each in found.pulls],
                "forwards": [forward_fields(each, now) for each in found.forwards],
                "recordings": [recording_fields(each, now) for each in found.recordings],
                "refusals": [refusal_fields(each, wall) for each in found.refusals],
                "registry": await self._registry(key),
            }
        }
        return self._answer(answer)

    async def _registry(self, key: StreamKey) -> answers.Located | None:
        """What it says of the stream; None where there is none."""
        neighbours = self._neighbours
        facts = None if neighbours is None else neighbours.registry
        if neighbours is None or facts is None:
            return None
        location = await neighbours.locate(key)
        owner = location.owner
        return {
            "url": facts.name,
            "up": facts.up,
            "owner": None if owner is None else {**holder_fields(owner), "epoch": owner.epoch},
            "copies": [holder_fields(each) for each in location.copies],
        }
