"""Memory that streams have dropped goes back to the system.

Groups of pictures of all streams lie mixed in the heap.  glibc gives back only what is free at its very end, so a
process would hold for good what its streams together needed at their worst moment: where publishers began together,
as after a restart, two to three times what they need at their best.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from typing import Final

LEAST_BYTES: Final = 1024 * 1024
"""So much must have become free: less is not worth the look through the heap."""

STREAM_BYTES: Final = 64 * 1024
"""And so much for each stream: what one may cost beside what it keeps and needs anyway.  With less, more is given back
that is needed again in the same second: a page costs up to 2 us to come back."""

PART: Final = 0.15
"""And this part of what was kept.  Many streams that are independent of each other never fall so far together, and then
nothing is given back at all."""

LOOK_SECONDS: Final = 0.1
"""How often to look: streams that go in step drop a tenth of what they keep meanwhile."""


class Trimmer:
    """Watches how much the streams keep; to be asked every ``LOOK_SECONDS``."""

    def __init__(self, trim: Callable[[], object] | None = None) -> None:
        self._trim = trim or _find_trim()
        self._peak = 0

    def look(self, kept: Sequence[int]) -> None:
        """Each stream keeps so many bytes now; those that keep nothing do not count."""
        size = sum(kept)
        freed = self._peak - size
        if freed <= 0:
            self._peak = size
        elif freed >= max(LEAST_BYTES, STREAM_BYTES * (len(kept) - kept.count(0)), self._peak * PART):
            self._peak = size
            self._trim()


def _find_trim() -> Callable[[], object]:
    """``malloc_trim(0)`` of glibc, which since 2.8 gives back whole free pages anywhere; nothing elsewhere."""
    try:
        malloc_trim = ctypes.CDLL(None).malloc_trim
    except (AttributeError, OSError, TypeError):  # another C library; Windows has no name for the process itself
        return lambda: None
    malloc_trim.argtypes = (ctypes.c_size_t,)
    return lambda: malloc_trim(0)
