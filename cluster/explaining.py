"""What a process can say of one stream, whether anybody publishes it or not: for ``pyrtmp explain``."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import chain
from typing import Final

from cluster.edge.pulls import PullFacts
from cluster.facts import ClientFacts
from cluster.forward.push import ForwardFacts
from cluster.recording.facts import RecordingFacts
from cluster.reports import Entries
from pyrtmp.refusals import Refusal


@dataclass(frozen=True, slots=True)
class Explanation:
    """Everything beside the stream's own facts."""

    clients: list[ClientFacts] = field(default_factory=list)
    """Its publisher, and other nodes that play it; viewers are too many."""
    pulls: list[PullFacts] = field(default_factory=list)
    forwards: list[ForwardFacts] = field(default_factory=list)
    recordings: list[RecordingFacts] = field(default_factory=list)
    refusals: list[Refusal] = field(default_factory=list)
    """To publish or play it, publishers that were cut off, and of its application to connect."""


EXPLANATIONS: Final = Entries(Explanation)


def merge_explanations(parts: Iterable[Explanation]) -> Explanation:
    """What all processes say."""
    parts = list(parts)
    return Explanation(
        sorted(chain.from_iterable(each.clients for each in parts), key=lambda client: (client.since, client.id)),
        list(chain.from_iterable(each.pulls for each in parts)),
        list(chain.from_iterable(each.forwards for each in parts)),
        list(chain.from_iterable(each.recordings for each in parts)),
        sorted(chain.from_iterable(each.refusals for each in parts), key=lambda refusal: -refusal.at),
    )
