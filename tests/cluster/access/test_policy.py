from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from time import process_time

import pytest

from cluster.access.addresses import address_check
from cluster.access.asking import ALLOWED, Action, Answer, Asked, Check, Verdict, refuse
from cluster.access.keys import KeyCheck, hash_key
from cluster.access.policy import MAX_REMEMBERED, Policy
from cluster.access.rules import KeyEntry, Rule
from cluster.access.throttle import Throttle
from tests.cluster.access.asking import NOW, ask

KEY = "a key that nobody guesses"
KEYS = KeyCheck([KeyEntry.parse(f"publish,play,api-read * {hash_key(KEY)}")])


def policy(*rules: str, remember_seconds: float = 0.0, failures: int = 1000, **checks: Check) -> Policy:
    return Policy(
        [Rule.parse(each) for each in rules], {"key": KEYS, **checks}, address_check("allow"),
        throttle=Throttle(failures), remember_seconds=remember_seconds,
    )  # fmt: skip


def decide(policy: Policy, asked: Asked) -> str:
    verdict = policy.decide(asked)
    assert isinstance(verdict, Verdict)
    return "allowed" if verdict.allowed else verdict.reason


def test_the_first_rule_that_names_it_counts() -> None:
    some = policy("publish live/* key", "publish,play live/cam deny", "play live/** allow", "* * deny")
    assert decide(some, ask(f"key={KEY}", Action.PUBLISH)) == "allowed"
    assert decide(some, ask(f"key={KEY}", Action.PLAY)) == "denied"
    assert decide(some, ask("", Action.PLAY, "live/other")) == "allowed"
    assert decide(some, ask(f"key={KEY}", Action.PLAY, "vod/x")) == "denied"


def test_what_no_rule_names_is_up_to_the_default() -> None:
    assert decide(policy(), ask()) == decide(policy("publish * deny"), ask()) == "allowed"
    closed = Policy([], {}, address_check("deny"), throttle=Throttle(1))
    assert decide(closed, ask()) == "denied"


def test_the_first_check_with_an_opinion_decides() -> None:
    some = policy("play * deny:203.0.113.0/24 allow:192.0.2.1 key")
    assert decide(some, ask(f"key={KEY}")) == "denied_address"
    assert decide(some, ask("key=wrong", address="192.0.2.1")) == "allowed"
    assert decide(some, ask("key=wrong", address="192.0.2.2")) == "wrong_key"
    assert decide(some, ask(f"key={KEY}", address="192.0.2.2")) == "allowed"
    assert decide(some, ask("", address="192.0.2.2")) == "no_credential"
    assert decide(some, ask("token=a.b.c", address="192.0.2.2")) == "not_asked_for"
    assert decide(some, ask(f"key={KEY}&key=x", address="192.0.2.2")) == "bad_credential"
    assert decide(policy("play * key allow"), ask("")) == "allowed"


async def test_a_check_may_take_its_time() -> None:
    asked: list[str] = []

    def slow(name: str, answer: Answer) -> Check:
        async def wait() -> Answer:
            asked.append(name)
            await asyncio.sleep(0)
            return answer

        return lambda _: wait()

    def later(**checks: Check) -> Awaitable[Verdict]:
        verdict = policy("play * hook signed key", **checks).decide(ask(f"key={KEY}"))
        assert not isinstance(verdict, Verdict)
        return verdict

    assert (await later(hook=slow("a", None), signed=slow("b", None))).allowed
    assert asked == ["a", "b"]
    assert (await later(hook=slow("a", refuse("no")), signed=slow("c", ALLOWED))).reason == "no"
    assert asked == ["a", "b", "a"]

    async def fail() -> Answer:
        raise OSError("gone")

    with pytest.raises(OSError, match="gone"):
        await later(hook=lambda _: fail())


def test_who_guesses_has_to_wait() -> None:
    some = policy("play * key", failures=3)
    for _ in range(100):
        assert decide(some, ask("")) == "no_credential"  # no guess
    assert [decide(some, ask(f"key={number}")) for number in range(4)] == ["wrong_key"] * 3 + ["throttled"]
    assert decide(some, ask(f"key={KEY}")) == "throttled"
    assert decide(some, ask(f"key={KEY}", address="192.0.2.2")) == "allowed"
    # It is not for what it might guess: that is open to it as before.
    assert decide(some, ask("")) == "no_credential"
    assert decide(some, ask("key=x", Action.PUBLISH)) == "allowed"


def test_a_yes_counts_for_the_next_files() -> None:
    asked = 0
    until = [NOW + 100]

    def check(_: Asked) -> Answer:
        nonlocal asked
        asked += 1
        return Verdict(True, until=until[0])

    some = policy("play * hook", remember_seconds=5.0, hook=check)
    for seconds in (0.0, 1.0, 4.9):
        assert decide(some, ask(f"key={KEY}", protocol="hls", now=NOW + seconds)) == "allowed"
    assert asked == 1
    decide(some, ask(f"key={KEY}", protocol="hls", now=NOW + 5))
    assert asked == 2
    # Nobody and nothing else has part in it.
    for other in (
        ask("key=another", protocol="hls"), ask("", protocol="hls"), ask(f"key={KEY}", protocol="flv"),
        ask(f"key={KEY}", protocol="hls", address="192.0.2.2"), ask(f"key={KEY}", protocol="hls", stream="live/x"),
        ask(f"key={KEY}", Action.PUBLISH, protocol="rtmp"),
    ):  # fmt: skip
        asked = 0
        decide(some, other)
        assert asked == (0 if other.action is Action.PUBLISH else 1)
    # It ends with the credential.
    until[0] = NOW + 1
    asked = 0
    for seconds in (0.0, 0.9, 1.0):
        decide(some, ask("key=short", protocol="hls", now=NOW + seconds))
    assert asked == 2


def test_few_are_remembered() -> None:
    some = policy("play * allow", remember_seconds=5.0)
    for number in range(MAX_REMEMBERED + 100):
        decide(some, ask(f"key={number}", protocol="hls"))
    assert len(some._remembered) == MAX_REMEMBERED


def test_a_no_is_not_remembered() -> None:
    some = policy("play * key", remember_seconds=5.0, failures=3)
    assert decide(some, ask("key=wrong", protocol="hls")) == "wrong_key"
    assert not some._remembered


def test_a_stranger_costs_little() -> None:
    """Less than a millisecond of CPU, with a thousand streams and a hundred patterns."""
    entries = [KeyEntry.parse(f"publish live/cam{number} {hash_key(str(number))}") for number in range(1000)]
    entries += [KeyEntry.parse(f"publish live/cam{number}* {hash_key(str(-number))}") for number in range(100)]
    some = Policy(
        [Rule.parse("publish live/* key")], {"key": KeyCheck(entries)}, address_check("allow"),
        throttle=Throttle(100_000),
    )  # fmt: skip
    started = process_time()
    for number in range(200):
        assert decide(some, ask(f"key=guess{number}", Action.PUBLISH, "live/cam7")) == "wrong_key"
    assert (process_time() - started) / 200 < 0.001
