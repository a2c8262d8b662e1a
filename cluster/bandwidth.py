"""How fast another node sends to this machine: for a moment, it is asked for a file of its page."""

from __future__ import annotations

import asyncio
import ssl
from time import monotonic
from typing import Final

import aiohttp

FILE: Final = "/_page/vendor/hls.light.min.js"
"""The largest that every node has."""

SECONDS: Final = 1.5
"""For all of it: a line that is slow is not to be asked much of."""

_MOST_BYTES: Final = 16 * 1024 * 1024
_LEAST_BYTES: Final = 16 * 1024
"""Less says nothing."""


async def measure(base: str, tls: ssl.SSLContext | None = None) -> float | None:
    """Bits per second from the node whose viewers' paths begin with ``base``; None: it has no such file, or does not
    answer in time."""
    received, began = 0, 0.0
    context = True if tls is None else tls
    try:
        async with asyncio.timeout(SECONDS), aiohttp.ClientSession(auto_decompress=False) as http:
            while received < _MOST_BYTES:
                async with http.get(base + FILE, allow_redirects=False, ssl=context) as response:
                    if response.status != 200:
                        return None
                    began = began or monotonic()
                    async for data in response.content.iter_any():
                        received += len(data)
    except TimeoutError:
        pass
    except (aiohttp.ClientError, OSError):
        return None
    seconds = monotonic() - began
    return received * 8 / seconds if received >= _LEAST_BYTES and seconds > 0 else None
