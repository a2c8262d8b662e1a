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
from http import HTTPStatus
from typing import Any, Final

import aiohttp
from yarl import URL

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


class AnswerError(OSError):
    """The back end gave no targets; the text says why, and repeats neither its URL nor what it answered."""


class TargetCallback:
    """Asks ``url`` where else a stream goes; a ``cluster.forward.forwarder.ExtraTargets``.  ``node`` is this one."""

    def __init__(self, url: str, *, node: str, journal: Journal) -> None:
        self._url = URL(url, encoded=True)  # as it is written
        self._node = node
        self._journal = journal
        self._turn = asyncio.Semaphore(AT_ONCE)

    async def __call__(self, stream: Stream) -> Sequence[Target]:
        """Ask once.  A URL that is no target is left out, with a line in the journal.

        Raises ``OSError``, ``TimeoutError`` included, when there is no answer of use.
        """
        question = ask(stream, self._node)
        async with self._turn:
            try:
                async with asyncio.timeout(ANSWER_SECONDS):
                    answer = await self._post(question)
            except aiohttp.ClientError as error:  # its own text may hold the URL, and that a token
                raise AnswerError(getattr(error, "strerror", None) or type(error).__name__) from None
        targets: list[Target] = []
        for number, url in enumerate(read_answer(answer), 1):
            try:
                targets.append(parse_target(url))
            except ValueError as error:
                self._journal.warning("forward_target_refused", stream=str(stream.key), url=number, error=str(error))
        return targets

    async def _post(self, question: dict[str, str]) -> bytes:
        # What is compressed could unpack to more than is wanted; a redirect leads where no operator pointed.
        headers = {"Accept-Encoding": "identity"}
        async with (
            aiohttp.ClientSession(headers=headers, auto_decompress=False) as http,
            http.post(self._url, json=question, allow_redirects=False) as response,
        ):
            if response.status != HTTPStatus.OK:
                raise AnswerError(f"the callback answered {response.status}")
            body = bytearray()
            async for data in response.content.iter_any():
                body += data
                if len(body) > MAX_ANSWER_BYTES:
                    raise AnswerError(f"the answer has more than {MAX_ANSWER_BYTES} bytes")
            return bytes(body)


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
