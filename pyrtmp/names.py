"""Names of applications and streams: one allow-list, applied where they enter.

Letters, digits and ``. _ - ~``; ``/`` separates the parts of an application.  Nothing else ever reaches a path, a
registry key, a URL or a log line.
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple

_PART: Final = re.compile(r"[A-Za-z0-9._~-]+")


class StreamKey(NamedTuple):
    """What identifies a live stream: ``app/name``."""

    app: str
    name: str

    def __str__(self) -> str:
        return f"{self.app}/{self.name}"


def split_query(text: str) -> tuple[str, str]:
    """``"name?a=b"`` as ``("name", "a=b")``."""
    name, _, query = text.partition("?")
    return name, query


def problem(path: str, max_bytes: int) -> str:
    """Why ``path`` (parts separated by ``/``) is not a valid name, or ``""``."""
    if not path:
        return "the name is empty"
    if len(path) > max_bytes:
        return f"the name is longer than {max_bytes} bytes"
    for part in path.split("/"):
        if not part:
            return "the name has an empty part"
        if not part.strip("."):
            return "the name has a part that is only dots"
        if not _PART.fullmatch(part):
            return "the name has a character other than letters, digits, '.', '_', '-', '~'"
    return ""


def make_key(app: str, name: str) -> StreamKey:
    """The key of a stream whose names passed ``problem``.

    Clients cut a URL at different slashes (``live`` + ``room/cam`` or ``live/room`` + ``cam``); the last part is
    always the stream.
    """
    app, _, name = f"{app}/{name}".rpartition("/")
    return StreamKey(app, name)
