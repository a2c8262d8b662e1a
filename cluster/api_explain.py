"""The part of the API that tells all there is to say of one stream: ``/api/v1/explain?stream=app/name``."""

from __future__ import annotations

import time
from collections.abc import Callable
from time import monotonic

from aiohttp import web

from cluster.api_cluster import forward_fields, pull_fields, stream_key
from cluster.facts import ClientFacts, StreamFacts
from cluster.fleet import Fleet
from cluster.neighbours import Neighbours
from cluster.openapi import answers
from cluster.registry import Copy, Lease
from pyrtmp.names import StreamKey
from pyrtmp.refusals import Refusal


class ExplainApi:
    """``answer`` makes a response of some fields, ``stream`` and ``client`` the fields of one."""

    def __init__(
        self,
        fleet: Fleet,
        neighbours: Neighbours | None,
        answer: Callable[..., web.Response],
        *,
        stream: Callable[[StreamFacts], answers.StreamDetails],
        client: Callable[[ClientFacts], answers.Client],
    ) -> None:
        self._fleet = fleet
        self._neighbours = neighbours
        self._answer = answer
        self._stream = stream
        self._client = client

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
                "facts": None if facts is None else self._stream(facts),
                "publisher": next((self._client(each) for each in found.clients if each.role == "publish"), None),
                "nodes": [self._client(each) for each in found.clients if each.role != "publish"],
                "pulls": [pull_fields(each) for each in found.pulls],
                "forwards": [forward_fields(each, now) for each in found.forwards],
                "refusals": [_refusal(each, wall) for each in found.refusals],
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
        return {
            "url": facts.name,
            "up": facts.up,
            "owner": None if location.owner is None else {**_holder(location.owner), "epoch": location.owner.epoch},
            "copies": [_holder(each) for each in location.copies],
        }


def _holder(record: Lease | Copy) -> answers.Holder:
    return {"node": record.node, "rtmp": record.rtmp, "group": record.group}


def _refusal(refusal: Refusal, now: float) -> answers.Refused:
    return {
        "what": refusal.what,
        "address": refusal.address,
        "code": refusal.code,
        "why": refusal.why,
        "at": round(refusal.at, 3),
        "times": refusal.times,
        "seconds": round(max(0.0, now - refusal.at), 1),
    }
