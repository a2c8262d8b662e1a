"""What one body may cost, on both sides: nesting, number of values, and nothing that runs in circles."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from ..errors import AmfError, LocalError
from .values import Value

DEFAULT_MAX_DEPTH: Final = 32
"""Containers inside containers.  Commands in the field nest three deep, ``keyframes`` in ``onMetaData`` three."""

DEFAULT_MAX_ITEMS: Final = 4096
"""Values in one body.  A ``connect`` has about 20, an ``onMetaData`` 30."""

HIGHEST_MAX_DEPTH: Final = 64
"""A level costs up to five Python frames, and the interpreter's limit is 1000 for the whole call stack."""

MAX_GROWTH: Final = 1024 * 1024
"""Bytes that the references of one body may stand for.  Without it, 4000 of them to one string of 60 KB would make
240 MB of log line."""

TOO_MANY: Final = "more values than accepted in one message"
TOO_DEEP: Final = "nested deeper than accepted"

# An entry of a reference table: the value, how many values it holds (itself included), how many containers deep
# it is, how many bytes it takes when written out.  None while it is being read.
Shared = tuple[Value, int, int, int]


def check_depth(max_depth: int) -> None:
    if max_depth > HIGHEST_MAX_DEPTH:
        raise LocalError(f"max_depth {max_depth} is above {HIGHEST_MAX_DEPTH}")


class Reader:
    """A cursor over one body that trusts no length and no count in it.

    A reference costs what it points to, in values, depth and bytes, as if it were written out.  So whatever a body
    decodes to can be walked, printed and encoded within the same limits; a value inside itself is refused.
    """

    __slots__ = ("data", "end", "growth", "left", "max_depth", "peak", "pos")

    def __init__(self, data: bytes | bytearray | memoryview, max_depth: int, max_items: int) -> None:
        check_depth(max_depth)
        self.data = bytes(data)
        self.pos = 0
        self.end = len(self.data)
        self.left = max_items  # values that may still come
        self.growth = 0  # bytes that references have stood for
        self.max_depth = max_depth
        self.peak = 0  # deepest level reached inside the container being read

    def take(self, size: int) -> int:
        """Step over ``size`` bytes; their position."""
        pos = self.pos
        if size > self.end - pos:
            raise AmfError(f"truncated: {size} bytes wanted at {pos}, {self.end - pos} there")
        self.pos = pos + size
        return pos

    def u8(self) -> int:
        pos = self.pos
        if pos >= self.end:
            raise AmfError(f"truncated: a byte wanted at {pos}")
        self.pos = pos + 1
        return self.data[pos]

    def expect(self, count: int, size: int) -> None:
        """Refuse a count of elements of at least ``size`` bytes that the rest of the body cannot hold."""
        if count * size > self.end - self.pos:
            raise AmfError(f"truncated: {count} elements announced, {self.end - self.pos} bytes there")

    def charge(self, count: int) -> None:
        self.left -= count
        if self.left < 0:
            raise AmfError(TOO_MANY)

    def grow(self, size: int) -> None:
        """Count a reference to something of ``size`` bytes."""
        self.growth += size
        if self.growth > MAX_GROWTH:
            raise AmfError("references stand for more than accepted in one message")

    def container(self, table: list[Shared | None], depth: int, read: Callable[[int], Value]) -> Value:
        """Read what can be referred to, giving it the next index of ``table`` (before its own contents get theirs)."""
        if depth >= self.max_depth:
            raise AmfError(TOO_DEEP)
        index, left, peak, start = len(table), self.left, self.peak, self.pos + self.growth
        table.append(None)
        self.peak = depth + 1
        value = read(depth + 1)
        table[index] = (value, 1 + left - self.left, self.peak - depth, self.pos + self.growth - start)
        self.peak = max(peak, self.peak)
        return value

    def reference(self, table: list[Shared | None], index: int, depth: int) -> Value:
        if index >= len(table):
            raise AmfError(f"reference {index} to a value that is not there")
        shared = table[index]
        if shared is None:
            raise AmfError(f"reference {index} makes a value contain itself")
        value, items, height, size = shared
        self.charge(items - 1)  # the reference itself is paid for
        self.grow(size)
        if depth + height > self.max_depth:
            raise AmfError(TOO_DEEP)
        self.peak = max(self.peak, depth + height)
        return value


class Writer:
    """The bytes of one body in the making, under the same limits, which also end a value that contains itself."""

    __slots__ = ("left", "max_depth", "out")

    def __init__(self, max_depth: int, max_items: int) -> None:
        check_depth(max_depth)
        self.out = bytearray()
        self.left = max_items
        self.max_depth = max_depth

    def charge(self, count: int) -> None:
        self.left -= count
        if self.left < 0:
            raise LocalError(TOO_MANY)

    def enter(self, depth: int) -> int:
        if depth >= self.max_depth:
            raise LocalError("nested deeper than accepted, or a value contains itself")
        return depth + 1
