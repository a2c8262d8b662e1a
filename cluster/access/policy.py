"""The one decision: rules in order, and within a rule its checks in order.

The first rule that names the action and the stream counts, no other.  Of its checks the first that has an opinion
decides; when none has, the answer is no: a rule that asks for something is not passed by showing nothing.  What no rule
names is up to the default.
"""

from __future__ import annotations

from collections.abc import Awaitable, Iterator, Mapping, Sequence
from inspect import isawaitable
from typing import Final

from cluster.access.addresses import address_check
from cluster.access.asking import ALLOWED, Action, Answer, Asked, Check, Verdict, refuse
from cluster.access.rules import Rule
from cluster.access.throttle import Throttle

MAX_REMEMBERED: Final = 4096
"""Answers kept at once; beyond it the oldest go."""

GUESSED: Final = frozenset(("key", "signed", "token", "callback"))
"""Checks of what a client might find by trying."""

THROTTLED: Final = refuse("throttled", "too many failures from this address")
_NO_CREDENTIAL: Final = refuse("no_credential")
_NOT_ASKED_FOR: Final = refuse("not_asked_for", "what the client shows is none of what the rule asks for")


class Policy:
    """``checks`` by name; those that begin with ``allow`` and ``deny`` are known.  ``default`` is asked about what no
    rule names.  ``remember_seconds``: how long a yes to an HLS request counts for the next ones like it."""

    def __init__(
        self,
        rules: Sequence[Rule],
        checks: Mapping[str, Check],
        default: Check,
        *,
        throttle: Throttle,
        remember_seconds: float = 0.0,
    ) -> None:
        self._throttle = throttle
        known = {name: self._slowed(name, check) if name in GUESSED else check for name, check in checks.items()}
        self._rules = [
            (rule, tuple(known.get(name) or address_check(name) for name in rule.checks)) for rule in rules
        ]
        self._default = default
        self._remember_seconds = remember_seconds
        self._remembered: dict[tuple[object, ...], float] = {}

    def covers(self, asked: Asked) -> bool:
        """Whether a rule is about it."""
        return any(rule.covers(asked.action, asked.stream) for rule, _ in self._rules)

    def decide(self, asked: Asked) -> Verdict | Awaitable[Verdict]:
        """At once where that is possible.  What a check raises is passed on."""
        if _repeats(asked) and self._remembered.get(_question(asked), 0.0) > asked.now:
            return ALLOWED
        checks = self._checks(asked)
        for check in checks:
            answer = check(asked)
            if isinstance(answer, Verdict):
                return self._decided(asked, answer)
            if answer is not None:
                return self._decide_later(asked, answer, checks)
        return self._undecided(asked)

    def _slowed(self, name: str, check: Check) -> Check:
        """Not asked for an address that has been wrong too often."""

        def slowed(asked: Asked) -> Answer | Awaitable[Answer]:
            # For a back end the name itself may be the key.
            guesses = bool(asked.credentials) or (name == "callback" and asked.action is Action.PUBLISH)
            return THROTTLED if guesses and self._throttle.blocked(asked.guesser) else check(asked)

        return slowed

    async def _decide_later(self, asked: Asked, waiting: Awaitable[Answer], checks: Iterator[Check]) -> Verdict:
        answer = await waiting
        while answer is None:
            check = next(checks, None)
            if check is None:
                return self._undecided(asked)
            found = check(asked)
            answer = await found if isawaitable(found) else found
        return self._decided(asked, answer)

    def _checks(self, asked: Asked) -> Iterator[Check]:
        for rule, checks in self._rules:
            if rule.covers(asked.action, asked.stream):
                return iter(checks)
        return iter((self._default,))

    def _decided(self, asked: Asked, verdict: Verdict) -> Verdict:
        if verdict.guess:
            self._throttle.failed(asked.guesser)
        until = min(asked.now + self._remember_seconds, verdict.until)
        if verdict.allowed and until > asked.now and _repeats(asked):
            question = _question(asked)
            self._remembered.pop(question, None)
            while len(self._remembered) >= MAX_REMEMBERED:
                del self._remembered[next(iter(self._remembered))]
            self._remembered[question] = until
        return verdict

    def _undecided(self, asked: Asked) -> Verdict:
        if asked.credentials.problem:
            return refuse("bad_credential", asked.credentials.problem)
        if asked.credentials:
            return _NOT_ASKED_FOR
        return _NO_CREDENTIAL


def _repeats(asked: Asked) -> bool:
    """An HLS player asks for a file every second or two, each time with the same credentials."""
    return asked.request is not None and asked.request.protocol == "hls"


def _question(asked: Asked) -> tuple[object, ...]:
    return asked.action, asked.key, asked.address, asked.credentials
