"""One request to a back end: signed, bounded in time and in what comes back."""

from __future__ import annotations

import asyncio
import hmac
import os
import time
from typing import Final

import aiohttp
from yarl import URL

from cluster.callbacks.events import AnswerError, Reply

TIMESTAMP: Final = "X-Pyrtmp-Timestamp"
"""Header: Unix time of the request."""
SIGNATURE: Final = "X-Pyrtmp-Signature"
"""Header: ``sha256=`` and the HMAC-SHA256, in hexadecimal, of timestamp, ``.`` and body."""


def sign(secret: str, timestamp: str, body: bytes) -> str:
    """The value of ``SIGNATURE``."""
    return "sha256=" + hmac.digest(secret.encode(), f"{timestamp}.".encode() + body, "sha256").hex()


class Poster:
    """Asks back ends over connections that stay open for the next question.  Made anywhere, used in one loop."""

    def __init__(self) -> None:
        self._session: aiohttp.ClientSession | None = None

    async def close(self) -> None:
        """Close what is open; what is being asked fails."""
        if self._session is not None:
            await self._session.close()

    async def post(
        self, url: str, content_type: str, body: bytes, *, secret: str, seconds: float, answer_bytes: int
    ) -> Reply:
        """Ask ``url``, and no other place: redirects are not followed.

        ``seconds`` is until the last byte of the answer, of whose body ``answer_bytes`` are read at most (0: none).
        Raises ``AnswerError``.
        """
        # What is compressed could unpack to more than is wanted.
        headers = {"Accept-Encoding": "identity", "Content-Type": content_type, "User-Agent": "pyrtmp"}
        if secret:
            headers[TIMESTAMP] = str(int(time.time()))
            headers[SIGNATURE] = sign(secret, headers[TIMESTAMP], body)
        try:
            async with asyncio.timeout(seconds):
                try:
                    return await self._post(url, headers, body, answer_bytes)
                except (aiohttp.ServerDisconnectedError, ConnectionResetError):
                    # It had closed a connection that was idle, as the question was on its way.
                    return await self._post(url, headers, body, answer_bytes)
        except TimeoutError:
            raise AnswerError(f"no answer within {seconds:g} s") from None
        except AnswerError:
            raise
        except (aiohttp.ClientError, OSError, ValueError) as error:  # its own text may hold the URL, and that a token
            number = getattr(error, "errno", None)
            raise AnswerError(os.strerror(number) if number and number > 0 else type(error).__name__) from None

    async def _post(self, url: str, headers: dict[str, str], body: bytes, answer_bytes: int) -> Reply:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                auto_decompress=False, cookie_jar=aiohttp.DummyCookieJar(),
                timeout=aiohttp.ClientTimeout(total=None),  # there is a deadline around it
                connector=aiohttp.TCPConnector(limit=0),  # who asks has a limit
            )  # fmt: skip
        async with self._session.post(
            URL(url, encoded=True), data=body, headers=headers, allow_redirects=False
        ) as response:
            answer = bytearray()
            if answer_bytes:
                async for data in response.content.iter_any():
                    answer += data
                    if len(answer) > answer_bytes:
                        raise AnswerError(f"the answer has more than {answer_bytes} bytes")
            return Reply(response.status, response.headers.get("Location", ""), bytes(answer))
