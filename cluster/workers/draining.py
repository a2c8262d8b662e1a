"""Letting the clients of one worker go while the others serve."""

from __future__ import annotations

import asyncio
from typing import Final

from pyrtmp.aio.server import Server

_STEP_SECONDS: Final = 0.05
_PART: Final = 0.6
"""Of the time there is; the rest is for last bytes to get out."""


async def drain_gently(server: Server, seconds: float) -> None:
    """Close viewers one after the other over most of ``seconds``, then publishers: those who come back at once find
    other workers that are not flooded, and streams are there until their viewers have moved."""
    viewers = [client for client in server.clients.values() if client.role != "publish"]
    steps = max(1, int(seconds * _PART / _STEP_SECONDS))
    for step in range(steps):
        for client in viewers[len(viewers) * step // steps : len(viewers) * (step + 1) // steps]:
            if client.id in server.clients:
                client.kick()
        await asyncio.sleep(_STEP_SECONDS if viewers else 0)
    for client in list(server.clients.values()):
        client.kick()
