"""Patterns of stream names: ``live/cam``, ``live/*``, ``live/**``, ``*``."""

from __future__ import annotations

import functools
import re
from typing import Final

MAX_PATTERN: Final = 256
"""Longest pattern, in characters."""

_PART: Final = re.compile(r"[A-Za-z0-9._~-]*\*?[A-Za-z0-9._~-]*|\*\*")


@functools.lru_cache(1024)
def pattern(text: str) -> re.Pattern[str]:
    """What matches a whole ``app/name``.

    ``*`` stands for anything within one part, once in each; ``**`` for one or more whole parts, once; ``*`` alone for
    every stream.  So a pattern is never more than quadratic work, even one out of a token.  Raises ``ValueError``.
    """
    if text == "*":
        text = "**"
    parts = text.split("/")
    if not text or len(text) > MAX_PATTERN or not all(part and _PART.fullmatch(part) for part in parts):
        raise ValueError(
            f'should be a pattern of app/name, such as live/cam, live/* or *, not "{ascii(text[:MAX_PATTERN])[1:-1]}"'
        )
    if parts.count("**") > 1:
        raise ValueError('"**" may stand in a pattern once')
    return re.compile("/".join(".+" if part == "**" else re.escape(part).replace(r"\*", "[^/]*") for part in parts))


def matches(text: str, stream: str) -> bool:
    """Whether ``text`` is a pattern of ``stream``."""
    try:
        return pattern(text).fullmatch(stream) is not None
    except ValueError:
        return False
