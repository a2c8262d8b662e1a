"""How many watch each stream at the other workers, for ``limits.max_viewers_per_stream``.

Pongs say how many watch at a worker, pings how many at all others: a few times a second, and only while there is a
limit.  So of those who come at the same moment to several workers a few more may get in.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Final

_MAX_BYTES: Final = 48 * 1024
"""Of a message, which has room for some more (``cluster.workers.channel``)."""


def most_watched(crowds: Counter[str]) -> dict[str, int]:
    """Of these streams and their viewers as many as go into a message; the others count for their worker alone."""
    left = _MAX_BYTES
    found: dict[str, int] = {}
    for name, viewers in crowds.most_common():
        left -= len(json.dumps(name)) + len(str(viewers)) + 2
        if left < 0 or viewers <= 0:
            break
        found[name] = viewers
    return found


def elsewhere(crowds: Iterable[Mapping[str, int]]) -> dict[str, int]:
    """What those of other workers come to together."""
    together: Counter[str] = Counter()
    for each in crowds:
        together.update(each)
    return most_watched(together)
