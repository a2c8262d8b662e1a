"""Counting this process's descriptors, and running out of them."""

from __future__ import annotations

import gc
import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager


def descriptors() -> int:
    """Open descriptors of this process; the one for listing them is counted each time.

    What an earlier test left in a reference cycle is collected first, or it would be collected between two counts.
    """
    gc.collect()
    return len(os.listdir("/proc/self/fd"))


@contextmanager
def no_descriptors(left: int = 0) -> Iterator[None]:
    """Within it this process can open ``left`` descriptors and no more."""
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    top = max(map(int, os.listdir("/proc/self/fd"))) + 1
    resource.setrlimit(resource.RLIMIT_NOFILE, (top, limits[1]))
    holes: list[int] = []
    try:
        while True:
            try:
                holes.append(os.dup(0))
            except OSError:
                break
        for _ in range(left):
            os.close(holes.pop())
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        for hole in holes:
            os.close(hole)
