"""A question, what the client shows for itself, and the answer."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, fields
from enum import StrEnum
from typing import Final, TypeAlias
from urllib.parse import parse_qsl

from pyrtmp.hooks import Request
from pyrtmp.names import StreamKey

MAX_QUERY: Final = 8192
"""Longest query that is looked through, in characters; aiohttp takes no longer request line."""
MAX_PARAMETERS: Final = 32
"""Most parameters of one query."""


class Action(StrEnum):
    """What somebody wants."""

    PUBLISH = "publish"
    PLAY = "play"
    API_READ = "api-read"
    API_WRITE = "api-write"


@dataclass(frozen=True, slots=True)
class Credentials:
    """What a client shows.  "": it does not."""

    key: str = ""
    """A stream key: ``?key=`` behind the stream's name, as in ``stream?key=...`` in OBS."""
    token: str = ""
    """A JWT."""
    sign: str = ""
    """Of a signed URL, as are ``expires`` and ``ip``."""
    expires: str = ""
    ip: str = ""
    problem: str = ""
    """Why nothing of it counts."""

    def __bool__(self) -> bool:
        return bool(self.key or self.token or self.sign or self.problem)

    @classmethod
    def read(cls, query: str, authorization: str = "") -> Credentials:
        """From a query, without its ``?``, and the header of that name: ``Bearer`` and a token or a stream key."""
        if not query and not authorization:
            return NOTHING
        if len(query) > MAX_QUERY:
            return cls(problem="the query is too long")
        try:
            parameters = parse_qsl(query, max_num_fields=MAX_PARAMETERS)
        except ValueError:
            return cls(problem="the query has too many parameters")
        scheme, _, bearer = authorization.partition(" ")
        if scheme.lower() == "bearer" and (bearer := bearer.strip()):
            parameters.append(("token" if bearer.count(".") == 2 else "key", bearer))
        found: dict[str, str] = {}
        for name, value in parameters:
            # Given twice, somebody before or behind this server may look at the other one.
            if name in _NAMES and found.setdefault(name, value) != value:
                return cls(problem=f"{name} is given twice")
        return cls(**found)


_NAMES: Final = frozenset(each.name for each in fields(Credentials)) - {"problem"}
NOTHING: Final = Credentials()


@dataclass(frozen=True, slots=True)
class Asked:
    """May ``address`` do that?"""

    action: Action
    key: StreamKey | None
    """The stream; None where the question is about the whole node."""
    address: str
    credentials: Credentials
    now: float
    """Unix time."""
    request: Request | None = None
    """As a hook gets it; None for the API."""

    @property
    def stream(self) -> str:
        """``app/name``, or ""."""
        return "" if self.key is None else str(self.key)

    @property
    def guesser(self) -> str:
        """Whom wrong guesses count against: an address; at a node, which asks for all its clients, those of a stream.
        """
        return f"{self.address} {self.stream}" if self.request is not None and self.request.node else self.address


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether it may, and why, which is for the log and never for the client."""

    allowed: bool
    reason: str = ""
    """One of few words, for the metric; "" for what is allowed."""
    detail: str = ""
    """For the log.  Holds nothing of a credential."""
    guess: bool = False
    """Who is wrong like this may be trying what fits: it is counted against the address."""
    until: float = math.inf
    """Unix time at which the answer ends; 0: it is for this one question."""
    error: Exception | None = None
    """What a hook raised, which goes to the client in place of our own words."""
    credential: bool = False
    """What the client has shown opens it, wherever it comes from."""
    instead: StreamKey | None = None
    """What it may publish or play in place of what it asked for."""


ALLOWED: Final = Verdict(True)

Answer: TypeAlias = Verdict | None
"""None: no opinion, ask the next check."""

Check: TypeAlias = Callable[[Asked], Answer | Awaitable[Answer]]


def refuse(reason: str, detail: str = "", *, guess: bool = False) -> Verdict:
    """A decided no."""
    return Verdict(False, reason, detail, guess)
