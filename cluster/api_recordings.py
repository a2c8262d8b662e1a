"""``/api/v1/recordings``: what is written to files, and orders to do so."""

from __future__ import annotations

from collections.abc import Callable
from time import monotonic

from aiohttp import web

from cluster.api_cluster import stream_key
from cluster.api_fields import recording_fields
from cluster.fleet import Fleet
from cluster.openapi import answers


class RecordingsApi:
    """``recordable``: whether there is a place for files.  ``answer`` makes a response of some fields."""

    def __init__(self, fleet: Fleet, recordable: Callable[[], bool], answer: Callable[..., web.Response]) -> None:
        self._fleet = fleet
        self._recordable = recordable
        self._answer = answer

    def routes(self) -> list[web.RouteDef]:
        """Paths and who answers them."""
        path = "/api/v1/recordings"
        return [web.get(path, self._get), web.post(path, self._post), web.delete(path, self._delete)]

    async def _get(self, request: web.Request) -> web.Response:
        now = monotonic()
        answer: answers.RecordingsAnswer = {
            "recordings": [recording_fields(each, now) for each in await self._fleet.recordings()]
        }
        return self._answer(answer)

    async def _post(self, request: web.Request) -> web.Response:
        return await self._order(request, True)

    async def _delete(self, request: web.Request) -> web.Response:
        return await self._order(request, False)

    async def _order(self, request: web.Request, on: bool) -> web.Response:
        key = stream_key(request)
        if on and not self._recordable():
            raise web.HTTPConflict(text="there is no place for files; set record.directory")
        if not await self._fleet.record(key.app, key.name, on):
            raise web.HTTPNotFound(text="nobody publishes such a stream to this node; /api/v1/streams has them all")
        return self._answer({})
