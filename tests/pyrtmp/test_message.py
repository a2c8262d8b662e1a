from __future__ import annotations

import pytest

from pyrtmp.message import AUDIO, VIDEO, Message


def test_messages_are_equal_by_what_they_carry() -> None:
    message = Message(VIDEO, 40, 1, b"abc")
    again = Message(VIDEO, 40, 1, b"abc")
    again.join = True  # where joiners begin is no part of the message
    assert message == again
    assert message not in (
        Message(AUDIO, 40, 1, b"abc"), Message(VIDEO, 41, 1, b"abc"), Message(VIDEO, 40, 2, b"abc"),
        Message(VIDEO, 40, 1, b"abd"), (VIDEO, 40, 1, b"abc"),
    )


def test_messages_are_no_keys() -> None:
    with pytest.raises(TypeError, match="unhashable"):
        hash(Message(VIDEO, 0, 1, b""))


def test_repr_leaves_the_payload_out() -> None:
    assert repr(Message(VIDEO, 40, 1, b"secret")) == "Message(type=9, timestamp=40, msid=1, 6 bytes)"
