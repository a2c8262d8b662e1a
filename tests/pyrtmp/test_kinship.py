"""``pyrtmp.kinship``: what proves that a node of the cluster says it, and what does not."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyrtmp import amf
from pyrtmp.kin import ENTRY, STRANGER, Kin
from pyrtmp.kinship import ANSWERS, ASKS, MAX_AGE, MAX_NONCES, Kinship, admission
from pyrtmp.names import StreamKey

SECRET = "one-secret-of-the-whole-cluster-0"
OTHER = "one-secret-of-the-whole-cluster-1"
EDGE = Kin("edge", ("edge",), wait=False, admits=admission("play", StreamKey("live", "cam")))
BINDING = bytes(32)


class Clock:
    def __init__(self) -> None:
        self.now = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now


def test_over_rtmp_a_proof_is_good_for_one_connection_and_one_side() -> None:
    kinship = Kinship((SECRET,))
    entry = kinship.entry(EDGE, ASKS, BINDING)
    (sent,) = amf.decode0(amf.encode0({"app": "live", **entry}))
    assert kinship.read(sent, ASKS, BINDING) == (EDGE, "")
    for side, binding in ((ANSWERS, BINDING), (ASKS, bytes(31) + b"\1"), (ASKS, b"")):
        kin, doubt = kinship.read(sent, side, binding)
        assert kin == STRANGER and "wrong" in doubt
    assert SECRET not in json.dumps(entry)


@pytest.mark.parametrize("changed", ["node", "hops", "lineage", "wait", "admits", "another"])
def test_a_proof_covers_all_that_is_said(changed: str) -> None:
    kinship = Kinship((SECRET,))
    entry = kinship.entry(Kin("edge", ("edge",), lineage="L", wait=False, admits=EDGE.admits), ASKS, BINDING)
    entry[ENTRY][changed] = True if changed == "wait" else "x"
    assert kinship.read(entry, ASKS, BINDING)[0] == STRANGER


def test_who_has_no_secret_believes_everybody_and_asks_for_nothing() -> None:
    nobody, known = Kinship(), Kinship((SECRET,))
    believed = replace(EDGE, admits="")
    assert nobody.read(known.entry(EDGE, ASKS, BINDING), ASKS, BINDING) == (believed, "")
    assert nobody.greeting(EDGE, True, BINDING) is None
    assert nobody.read_asked(known.ask(EDGE)) == (believed, "")
    kin, doubt = known.read(nobody.entry(EDGE, ASKS, BINDING), ASKS, BINDING)
    assert kin == STRANGER and "has it a node.secret" in doubt
    # What a node that is believed without proof has allowed is asked again.
    key = StreamKey("live", "cam")
    assert nobody.admitted_by(EDGE, "play", key) == "" and known.admitted_by(EDGE, "play", key) == "edge"
    assert known.admitted_by(EDGE, "publish", key) == known.admitted_by(EDGE, "play", StreamKey("live", "x")) == ""


def test_what_was_said_before_there_was_a_secret_opens_nothing_afterwards() -> None:
    kinship = Kinship()
    kin, _ = kinship.read(Kinship().entry(EDGE, ASKS, BINDING), ASKS, BINDING)
    kinship.configure((SECRET,))
    assert kin.node == "edge" and kinship.admitted_by(kin, "play", StreamKey("live", "cam")) == ""


def test_who_says_nothing_of_itself_has_nothing_to_prove() -> None:
    known = Kinship((SECRET,))
    for values in (None, {}, {"app": "live"}, {ENTRY: 5}, {ENTRY: {}}):
        assert known.read(values, ASKS, BINDING) == (STRANGER, "")
    assert known.read_asked(None) == known.read_asked("[]") == (STRANGER, "")


def test_secrets_are_changed_one_node_after_the_other() -> None:
    before, both, after = Kinship((SECRET,)), Kinship((OTHER, SECRET)), Kinship((OTHER,))
    assert both.read(before.entry(EDGE, ASKS, BINDING), ASKS, BINDING)[0] == EDGE
    assert both.read(after.entry(EDGE, ASKS, BINDING), ASKS, BINDING)[0] == EDGE
    assert after.read(both.entry(EDGE, ASKS, BINDING), ASKS, BINDING)[0] == EDGE
    assert after.read(before.entry(EDGE, ASKS, BINDING), ASKS, BINDING)[0] == STRANGER
    before.configure((OTHER,))
    assert after.read(before.entry(EDGE, ASKS, BINDING), ASKS, BINDING)[0] == EDGE


def test_the_greeting_tells_both_sides() -> None:
    origin, edge, other = Kinship((SECRET,)), Kinship((SECRET,)), Kinship((OTHER,))
    me = Kin("origin")
    assert edge.read(origin.greeting(me, True, BINDING), ANSWERS, BINDING) == (me, "")
    for who in (other, edge, Kinship()):
        kin, doubt = who.read(origin.greeting(me, False, BINDING), ANSWERS, BINDING)
        assert kin == STRANGER and "does not take this node" in doubt
    assert other.read(origin.greeting(me, True, BINDING), ANSWERS, BINDING)[0] == STRANGER


def test_over_http_a_proof_is_good_once_and_not_for_long() -> None:
    clock = Clock()
    edge, origin = Kinship((SECRET,), now=clock), Kinship((SECRET,), now=clock)
    asked = edge.ask(EDGE)
    assert origin.read_asked(asked) == (EDGE, "")
    assert origin.read_asked(asked) == (STRANGER, "it was shown before")
    late, early = edge.ask(EDGE), edge.ask(EDGE)
    clock.now += MAX_AGE + 1
    kin, doubt = origin.read_asked(late)
    assert kin == STRANGER and "61 s ago" in doubt
    clock.now -= 2 * MAX_AGE + 2
    assert origin.read_asked(early)[0] == STRANGER  # a clock that is too far ahead
    answer = origin.answer(Kin("origin"), True, asked)
    assert edge.read_answer(answer, asked) == (Kin("origin"), "")
    assert edge.read_answer(answer, edge.ask(EDGE))[0] == STRANGER
    assert edge.read_answer(asked, asked)[0] == STRANGER
    kin, doubt = edge.read_answer(origin.answer(Kin("origin"), False, asked), asked)
    assert kin == STRANGER and "does not take this node" in doubt
    assert Kinship().answer(Kin("origin"), False, asked) == ""


def test_a_proof_stays_used_for_as_long_as_it_is_good() -> None:
    """Made by a clock that is ahead."""
    clock, ahead = Clock(), Clock()
    ahead.now += MAX_AGE - 1
    edge, origin = Kinship((SECRET,), now=ahead), Kinship((SECRET,), now=clock)
    asked = edge.ask(EDGE)
    assert origin.read_asked(asked)[0] == EDGE
    for _ in range(2 * int(MAX_AGE)):
        clock.now += 1
        assert origin.read_asked(asked)[0] == STRANGER


def test_what_is_remembered_of_proofs_is_bounded_and_goes_with_time() -> None:
    clock = Clock()
    kinship = Kinship((SECRET,), now=clock)
    kinship._nonces.update((str(each), clock.now + 2 * MAX_AGE) for each in range(MAX_NONCES))
    assert kinship.read_asked(kinship.ask(EDGE))[0] == STRANGER
    clock.now += 2 * MAX_AGE
    assert kinship.read_asked(kinship.ask(EDGE))[0] == EDGE
    assert len(kinship._nonces) == 1


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=80),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)
FIELDS = st.sampled_from(["node", "hops", "proof", "nonce", "time", "admits", "known", "x"])


@given(st.dictionaries(FIELDS, ANYTHING))
def test_nothing_that_a_stranger_says_does_harm_or_counts(entry: dict[str, Any]) -> None:
    kinship = Kinship((SECRET,))
    assert kinship.read({ENTRY: entry}, ASKS, BINDING)[0] == STRANGER
    try:
        text = json.dumps(entry)
    except ValueError:
        return
    assert kinship.read_asked(text)[0] == STRANGER
    assert kinship.read_answer(text, text)[0] == STRANGER


@given(st.dictionaries(st.sampled_from(["nonce", "time"]), ANYTHING))
def test_not_even_a_node_with_the_secret_does_harm(more: dict[str, Any]) -> None:
    from pyrtmp.kinship import _HTTP, _proof

    said = {"node": "edge", **more}
    said["proof"] = _proof(SECRET.encode(), said, ASKS, _HTTP)
    kin, doubt = Kinship((SECRET,), now=Clock()).read_asked(json.dumps(said))
    assert kin == STRANGER and doubt
