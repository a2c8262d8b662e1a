"""Playing from an upstream by HTTP-FLV."""

from __future__ import annotations

import asyncio
from typing import Final

from aiohttp import (
    ClientPayloadError,
    ClientResponse,
    ClientResponseError,
    ClientSession,
    ClientTimeout,
    DummyCookieJar,
    TCPConnector,
)
from yarl import URL

from cluster.edge import attempt
from cluster.edge.attempt import Attempt
from cluster.flv import FlvReader
from pyrtmp.errors import RefusedError
from pyrtmp.kin import HEADER

STALL_SECONDS: Final = 30.0
"""Longest time without a whole tag.  Long before that others are asked as well; a stream whose publisher is gone ends
within it at a server like this one."""


class FlvAttempt(Attempt):
    """See ``Attempt``.  No more is read from the socket than is taken off; the response's header, lines and number of
    them, is bounded by aiohttp.

    FLV has no word for a stream that is silent, nor for a server that wants to be left: the first is noticed since
    nothing comes, the second when it closes the connection.
    """

    async def _play(self) -> None:
        url = URL(self._url, encoded=True)
        introduction = self._kinship.ask(self._own)
        loop = asyncio.get_running_loop()
        try:
            async with (
                ClientSession(
                    connector=TCPConnector(ssl=self._tls() if url.scheme == "https" else True),
                    timeout=ClientTimeout(connect=attempt.CONNECT_SECONDS),
                    headers={"User-Agent": "pyrtmp", "Accept-Encoding": "identity", HEADER: introduction},
                    cookie_jar=DummyCookieJar(),
                    auto_decompress=False,
                ) as session,
                self._first_frame_in_time(),
                asyncio.timeout(STALL_SECONDS) as stall,
                # Redirections are not followed: only known addresses are dialled.
                session.get(url, allow_redirects=False) as response,
            ):
                _check(response)
                kin, doubt = self._kinship.read_answer(response.headers.get(HEADER), introduction)
                if doubt:
                    self._doubt(doubt)
                self._meet(kin)
                reader = FlvReader(self._limits.max_message_bytes)
                while data := await response.content.readany():
                    messages = reader.feed(data)
                    for message in messages:
                        self._on_message(message)
                    if messages:
                        stall.reschedule(loop.time() + STALL_SECONDS)
                        self._look()
                raise RefusedError("NetStream.Play.Stop", "the stream ended")
        except (ClientResponseError, ClientPayloadError):
            # Their text has what was received, and the URL, which may hold a token.
            raise ConnectionError("its answer broke off, or is not HTTP as it should be") from None


def _check(response: ClientResponse) -> None:
    """Raises ``RefusedError`` where the upstream has not got the stream, ``ConnectionError`` where it is not well."""
    if response.status >= 500:
        raise ConnectionError(f"it answered {response.status}")
    if response.status in (401, 403):
        raise RefusedError("NetStream.Play.Failed", f"it answered {response.status}")
    if response.status != 200:
        raise RefusedError("NetStream.Play.StreamNotFound", f"it answered {response.status}")
