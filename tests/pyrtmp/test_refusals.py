"""``pyrtmp.refusals``: what is remembered of refusals stays bounded, and strangers do not wash it away."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from pyrtmp.refusals import MAX_NAMES, MAX_NAMES_PER_ADDRESS, MAX_PER_NAME, MAX_WHY, Refusal, Refusals


def refusal(address: str = "10.0.0.1", what: str = "play", at: float = 0.0, why: str = "no") -> Refusal:
    return Refusal(what, address, "NetStream.Play.Failed", why, at)


def test_the_newest_of_each_address_and_kind() -> None:
    refusals = Refusals()
    refusals.note("live/cam", refusal(at=1.0))
    refusals.note("live/cam", refusal(at=2.0, what="publish"))
    refusals.note("live/cam", refusal(at=3.0, why="again"))
    refusals.note("live/cam", refusal("10.0.0.2", at=4.0))
    assert [(each.address, each.what, each.at, each.times) for each in refusals.of("live/cam")] == [
        ("10.0.0.2", "play", 4.0, 1), ("10.0.0.1", "play", 3.0, 2), ("10.0.0.1", "publish", 2.0, 1),
    ]  # fmt: skip
    assert refusals.of("live/cam")[1].why == "again" and refusals.of("live/other") == []


def test_one_address_cannot_wash_away_others() -> None:
    refusals = Refusals()
    refusals.note("live/cam", refusal("10.0.0.2"))
    for number in range(2 * MAX_NAMES):
        refusals.note(f"live/{number}", refusal("10.0.0.1"))
    assert len(refusals) == 1 + MAX_NAMES_PER_ADDRESS and refusals.of("live/cam")
    assert refusals.of(f"live/{2 * MAX_NAMES - 1}") and not refusals.of("live/0")


def test_one_network_cannot_wash_away_others() -> None:
    refusals = Refusals()
    refusals.note("live/cam", refusal("2001:db8:1::1"))
    for number in range(2 * MAX_NAMES):
        refusals.note(f"live/{number}", refusal(f"2001:db8::{number:x}"))
    assert len(refusals) == 1 + MAX_NAMES_PER_ADDRESS and refusals.of("live/cam")
    assert refusals.of(f"live/{2 * MAX_NAMES - 1}")[0].address == f"2001:db8::{2 * MAX_NAMES - 1:x}"


def test_names_and_refusals_are_bounded() -> None:
    refusals = Refusals()
    for number in range(MAX_NAMES + 10):
        refusals.note(f"live/{number}", refusal(f"10.0.{number >> 8}.{number & 255}", why="x" * 10_000))
    assert len(refusals) == MAX_NAMES and not refusals.of("live/9") and refusals.of("live/10")
    for number in range(100):
        refusals.note("live/10", refusal(f"10.1.0.{number}"))
    assert [each.address for each in refusals.of("live/10")] == [f"10.1.0.{99 - n}" for n in range(MAX_PER_NAME)]
    assert len(refusals.of("live/11")[0].why) == MAX_WHY


@given(st.lists(st.tuples(st.integers(0, 90), st.integers(0, 3), st.booleans()), max_size=400))
def test_whatever_comes_the_last_one_is_there(noted: list[tuple[int, int, bool]]) -> None:
    refusals = Refusals()
    for at, (name, address, play) in enumerate(noted):
        one = refusal(str(address), "play" if play else "publish", float(at))
        refusals.note(str(name), one)
        newest = refusals.of(str(name))[0]
        assert (newest.at, newest.address, newest.what) == (at, one.address, one.what)
        assert len(refusals.of(str(name))) <= MAX_PER_NAME
    assert len(refusals) <= len({name for name, _, _ in noted})
