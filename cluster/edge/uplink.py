"""Publishing through an edge: what clients publish there is passed up to an origin, which owns the stream.

One origin at a time.  When it is lost the next one is asked, and viewers go on where they were: the stream keeps its
timeline.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable
from typing import Any, Final

from cluster.edge.upstreams import Upstreams
from cluster.forward.settings import PushSettings
from cluster.forward.target import parse_target
from cluster.tls.client import system_context
from pyrtmp.aio.client import Client, RtmpUrl
from pyrtmp.names import StreamKey, make_key
from pyrtmp.settings import Limits

CONNECT_SECONDS: Final = 2.0

TARGET: Final = parse_target("rtmp://origin/{app}/{name}")
"""Stands for whichever origin takes the stream."""

SETTINGS: Final = PushSettings(connect=5.0, first_retry=0.02, longest_retry=2.0)


class Uplink:
    """Connects forwards to the origin that should have the stream.  See ``cluster.forward.push.Connect``.

    ``query``: what goes behind a stream's name.
    """

    def __init__(
        self, upstreams: Upstreams, tls: Callable[[], ssl.SSLContext] = system_context,
        query: Callable[[StreamKey], str] = lambda key: "",
    ) -> None:
        self._upstreams = upstreams
        self._tls = tls
        self._query = query

    async def connect(
        self, url: str, *, timeout: float = CONNECT_SECONDS, limits: Limits | None = None,
        tls: ssl.SSLContext | None = None, **parameters: Any,
    ) -> Client:
        """Connect to the first origin that answers.  Raises ``ConnectionError`` when none does."""
        target = RtmpUrl.parse(url)
        key = make_key(target.app, target.name)
        for upstream in await self._upstreams.find(key):
            try:
                client = await Client.connect(
                    upstream.url(key, self._query(key)), timeout=min(timeout, CONNECT_SECONDS), limits=limits,
                    tls=self._tls() if upstream.scheme == "rtmps" else None, **parameters
                )
            except Exception:  # it is the origin's fault whatever it is, and the next one may be better
                self._upstreams.failed(upstream)
            else:
                self._upstreams.worked(upstream)
                return client
        raise ConnectionError("no origin answers")
