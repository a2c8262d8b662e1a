"""A live stream that a test plays by hand."""

from __future__ import annotations

from collections.abc import Sequence

from pyrtmp.birth import Birth
from pyrtmp.message import Message
from pyrtmp.stream import Tap


class FakeSource:
    """A live stream with the head and the messages that a joiner is handed."""

    live = True
    relayed = False
    birth: Birth | None = None
    """None: numbered by the wall clock, as streams are that do not say it."""
    shift = 0
    key_before: int | None = None

    def __init__(self, backlog: Sequence[Message] = ()) -> None:
        self.backlog = list(backlog)
        self.taps: list[Tap] = []
        self.attached = 0

    def attach(self, tap: Tap) -> None:
        self.attached += 1
        self.taps.append(tap)
        tap.on_messages(self.backlog)

    def detach(self, tap: Tap) -> None:
        if tap in self.taps:
            self.taps.remove(tap)

    def send(self, messages: Sequence[Message]) -> None:
        for tap in list(self.taps):
            tap.on_messages(messages)

    def restart(self) -> None:
        for tap in list(self.taps):
            tap.on_restart()

    def end(self) -> None:
        taps, self.taps = self.taps, []
        for tap in taps:
            tap.on_end()


def later(messages: Sequence[Message], milliseconds: int) -> list[Message]:
    return [Message(m.type, m.timestamp + milliseconds, m.msid, m.payload) for m in messages]
