"""Targets asked from an operator's back end, in the dialect of SRS (``forward { backend ...; }``, action on_forward).

::

    POST  {"action": "on_forward", "server_id": ..., "client_id": ..., "ip": ..., "vhost": "__defaultVhost__",
           "app": "live", "tcUrl": "rtmp://...", "stream": "cam", "param": "?token=..."}
    200   {"code": 0, "data": {"urls": ["rtmp://host:port/app/stream", ...]}}
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Final

from cluster.callbacks.events import AnswerError
from cluster.callbacks.posting import Poster
from cluster.forward.target import Target, parse_target
from pyrtmp.aio.connection import Connection
from pyrtmp.journal import Journal
from pyrtmp.stream import Stream

ANSWER_SECONDS: Final = 5.0
"""From connecting to the answer's last byte (SRS: 30)."""

AT_ONCE: Final = 8
"""Most questions that wait for their answers; the rest wait for these."""

MAX_ANSWER_BYTES: Final = 64 * 1024
MAX_URLS: Final = 32

_VHOST: Final = "__defaultVhost__"
"""What SRS calls the only one there is."""

_SHAPE: Final = '{"code": 0, "data": {"urls": [...]}}'


class TargetCallback:
    """Asks ``url`` where else a stream goes; a ``cluster.forward.forwarder.ExtraTargets``.

    ``node`` is this one.  Asks by ``poster``, which whoever made it closes.
    """

    def __init__(self, url: str, *, node: str, poster: Poster, journal: Journal) -> None:
        self._url = url
        self._node = node
        self._poster = poster
        self._journal = journal
        self._turn = asyncio.Semaphore(AT_ONCE)

    async def __call__(self, stream: Stream) -> Sequence[Target]:
        """Ask once.  A URL that is no target is left out, with a line in the journal.

        Raises ``AnswerError``.
        """
        question = json.dumps(ask(stream, self._node)).encode()
        async with self._turn:
            reply = await self._poster.post(
                self._url, "application/json", question, secret="", seconds=ANSWER_SECONDS,
                answer_bytes=MAX_ANSWER_BYTES,
            )  # fmt: skip
        if reply.status != 200:
            raise AnswerError(f"the callback answered {reply.status}")
        targets: list[Target] = []
        for number, url in enumerate(read_answer(reply.body), 1):
            try:
                targets.append(replace(parse_target(url), configured=False))
            except ValueError as error:
                self._journal.warning("forward_target_refused", stream=str(stream.key), url=number, error=str(error))
        return targets


def ask(stream: Stream, node: str) -> dict[str, str]:
    """The question about a stream that has a publisher."""
    publisher = stream.publisher
    request, tc_url = None, ""
    if isinstance(publisher, Connection):
        request, tc_url = publisher.publishing.request(stream), publisher.descriptions.get("tcUrl", "")
    return {
        "action": "on_forward",
        "server_id": node,
        "client_id": "" if publisher is None else publisher.id,
        "ip": "" if request is None else request.address,
        "vhost": _VHOST,
        "app": stream.key.app,
        "tcUrl": tc_url,
        "stream": stream.key.name,
        "param": f"?{request.query}" if request is not None and request.query else "",
    }


def read_answer(body: bytes) -> list[str]:
    """The URLs of an answer.  Raises ``AnswerError``."""
    try:
        answer: Any = json.loads(body)
    except (ValueError, RecursionError):
        raise AnswerError("the answer is not JSON") from None
    match answer:
        case {"code": 0, "data": {"urls": [*urls]}} if all(isinstance(url, str) for url in urls):
            if len(urls) > MAX_URLS:
                raise AnswerError(f"the answer has {len(urls)} urls, more than {MAX_URLS}")
            return urls
        case {"code": int(code)} if code:
            raise AnswerError(f"the callback answered code {code}")
    raise AnswerError(f"the answer is not {_SHAPE}")
