from __future__ import annotations

import json
from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from cluster.workers import messages
from cluster.workers.channel import MAX_MESSAGE
from cluster.workers.crowds import elsewhere, most_watched


def test_of_other_workers_together() -> None:
    assert elsewhere([{"live/a": 2, "live/b": 1}, {}, {"live/a": 3}]) == {"live/a": 5, "live/b": 1}
    assert elsewhere([]) == {}


def test_streams_nobody_watches_are_left_out() -> None:
    assert most_watched(Counter({"live/a": 0, "live/b": 1})) == {"live/b": 1}


@given(st.dictionaries(st.text(max_size=2000), st.integers(0, 10**6), max_size=60))
def test_a_message_has_room_for_it(crowds: dict[str, int]) -> None:
    crowds |= {f"live/{number}" + "\N{SNOWMAN}" * 1000: 500 for number in range(20)}
    found = most_watched(Counter(crowds))
    least = min(found.values())
    assert all(viewers <= least for name, viewers in crowds.items() if name not in found)
    data = messages.encode(messages.Pong(1 << 62, 1 << 62, 1 << 62, 1e300, found))
    assert len(data) <= MAX_MESSAGE
    assert messages.decode(memoryview(data)) == messages.Pong(1 << 62, 1 << 62, 1 << 62, 1e300, found)
    assert json.loads(bytes(data)[1:])["viewers"] == found
