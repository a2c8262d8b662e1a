"""The keys of whoever issues tokens, fetched from one URL (RFC 7517, section 5)."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Sequence
from time import monotonic
from typing import Any, Final

import aiohttp
import structlog
from joserfc.errors import JoseError
from joserfc.jwk import JWKRegistry, Key

FETCH_SECONDS: Final = 5.0
"""For the whole fetch."""
MAX_BYTES: Final = 256 * 1024
MAX_KEYS: Final = 64
OLD_SECONDS: Final = 3600.0
"""After so long the keys are fetched again, while those there are still serve."""
AGAIN_SECONDS: Final = 10.0
"""Between two fetches at least, however many tokens name keys that nobody knows."""

_TYPES: Final = ("RSA", "EC", "OKP")
"""Of keys that are taken: a symmetric one that a URL tells everybody is no secret."""

_log = structlog.get_logger(__name__)


class Jwks:
    """The keys at ``url``, and at no other place: what a token says of where its key is does not count, nor does a
    redirect."""

    def __init__(self, url: str, clock: Callable[[], float] = monotonic) -> None:
        self._url = url
        self._shown = url.partition("?")[0].partition("#")[0]
        """For the log: what follows may be a key."""
        self._clock = clock
        self._tried: float | None = None
        self._fetched: float | None = None
        self._task: asyncio.Task[None] | None = None
        self.keys: Sequence[Key] = ()

    @property
    def ready(self) -> bool:
        """Whether keys have ever been there."""
        return self._fetched is not None

    def keep_fresh(self) -> None:
        """Begin to fetch, in the background, keys that have become old."""
        if self._fetched is not None and self._clock() - self._fetched > OLD_SECONDS:
            self.begin()

    def begin(self) -> asyncio.Task[None] | None:
        """Fetch, or join the fetch under way; None: it is too early to try again."""
        if self._task is None:
            now = self._clock()
            if self._tried is not None and now - self._tried < AGAIN_SECONDS:
                return None
            self._tried = now
            self._task = asyncio.get_running_loop().create_task(self._fetch())
            self._task.add_done_callback(self._done)
        return self._task

    async def close(self) -> None:
        """Stop fetching."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait((self._task,))

    def _done(self, task: asyncio.Task[None]) -> None:
        self._task = None

    async def _fetch(self) -> None:
        try:
            keys = parse_keys(await self._download())
        except (aiohttp.ClientError, OSError, TimeoutError, ValueError) as error:
            # The text of one may hold the URL.
            why = str(error) if isinstance(error, ValueError) else type(error).__name__
            _log.warning("jwks_failed", url=self._shown, error=why)
        else:
            self.keys, self._fetched = keys, self._clock()
            _log.info("jwks_fetched", url=self._shown, keys=len(keys))

    async def _download(self) -> bytes:
        timeout = aiohttp.ClientTimeout(total=FETCH_SECONDS)
        # What is compressed could unpack to more than is wanted.
        headers = {"Accept-Encoding": "identity", "User-Agent": "pyrtmp"}
        async with (
            aiohttp.ClientSession(
                timeout=timeout, headers=headers, auto_decompress=False, cookie_jar=aiohttp.DummyCookieJar()
            ) as session,
            session.get(self._url, allow_redirects=False) as response,
        ):
            if response.status != 200:
                raise ValueError(f"status {response.status}")
            body = bytearray()
            async for chunk in response.content.iter_chunked(16 * 1024):
                body += chunk
                if len(body) > MAX_BYTES:
                    raise ValueError(f"more than {MAX_BYTES} bytes")
            return bytes(body)


def parse_keys(body: bytes) -> list[Key]:
    """The keys of a set that can verify signatures; others are passed over, as section 5 asks.  Raises ``ValueError``
    when none is left."""
    try:
        document: Any = json.loads(body)
    except (ValueError, RecursionError):
        raise ValueError("not JSON") from None
    entries = document.get("keys") if isinstance(document, dict) else None
    if not isinstance(entries, list):
        raise ValueError("not a set of keys")
    keys: list[Key] = []
    for entry in entries[:MAX_KEYS]:
        if isinstance(entry, dict) and entry.get("kty") in _TYPES and entry.get("use", "sig") == "sig":
            try:
                keys.append(JWKRegistry.import_key(entry))
            except (JoseError, ValueError, TypeError, KeyError):
                continue
    if not keys:
        raise ValueError("no key that can verify a signature")
    return keys
