"""What operators write: rules, and the keys of streams, one line of text each.

::

    publish       live/*    deny:203.0.113.0/24 key
    publish,play  room/**   signed token
    api-read      *         key allow:10.0.0.0/8
    ACTIONS       PATTERN   CHECKS

    publish       live/cam  sha256:9f86d0...
    ACTIONS       PATTERN   HASH
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from cluster.access.asking import Action
from cluster.access.patterns import matches, pattern
from pyrtmp.networks import parse_network

CHECKS: Final = ("key", "signed", "token", "hook", "callback")
"""By name; ``allow``, ``deny`` and both with ``:`` and an address or network are checks, too."""


@dataclass(frozen=True, slots=True)
class Rule:
    """The checks for some actions on some streams, in the order in which they are asked."""

    actions: frozenset[Action]
    pattern: re.Pattern[str]
    checks: tuple[str, ...]

    @classmethod
    def parse(cls, text: str) -> Rule:
        """Raises ``ValueError`` with the reason."""
        actions, streams, *checks = _words(text, "ACTIONS PATTERN CHECKS", 'such as "publish live/* key"')
        rule = cls(_actions(actions), _pattern(actions, streams), tuple(checks))
        for check in checks:
            _check(check)
        return rule

    def covers(self, action: Action, stream: str) -> bool:
        """Whether it is about that.  The API asks for no stream: every pattern of its rules is ``*``."""
        return action in self.actions and (not stream or self.pattern.fullmatch(stream) is not None)


@dataclass(frozen=True, slots=True)
class KeyEntry:
    """A key, of which only the hash is known, and what it opens."""

    actions: frozenset[Action]
    streams: str
    """The pattern as it was written."""
    digest: bytes

    @classmethod
    def parse(cls, text: str) -> KeyEntry:
        """Raises ``ValueError`` with the reason, which never holds the text: it may be a key by mistake."""
        actions, streams, hashed, *more = _words(
            text, "ACTIONS PATTERN HASH", 'such as "publish live/cam sha256:...", which pyrtmp secret key makes'
        )
        match = re.fullmatch(r"sha256:([0-9a-f]{64})", hashed)
        if match is None or more:
            raise ValueError('should end with "sha256:" and 64 hexadecimal digits, the hash of the key')
        entry = cls(_actions(actions), streams, bytes.fromhex(match[1]))
        _pattern(actions, streams)
        return entry

    def covers(self, action: Action, stream: str) -> bool:
        """Whether it opens that.  See ``Rule.covers``."""
        return action in self.actions and (not stream or matches(self.streams, stream))


def _words(text: str, form: str, example: str) -> list[str]:
    words = text.split()
    if len(words) < 3:
        raise ValueError(f"should be {form}, {example}")
    return words


def _actions(text: str) -> frozenset[Action]:
    if text == "*":
        return frozenset((Action.PUBLISH, Action.PLAY))
    try:
        return frozenset(Action(each) for each in text.split(","))
    except ValueError:
        raise ValueError(f"should begin with an action, or several with commas: {', '.join(Action)}") from None


def _pattern(actions: str, text: str) -> re.Pattern[str]:
    if "api-" in actions and text != "*":
        raise ValueError("the API is asked about all streams at once: its pattern is *")
    return pattern(text)


def _check(text: str) -> None:
    kind, colon, network = text.partition(":")
    if colon and kind in ("allow", "deny"):
        parse_network(network)
    elif text not in (*CHECKS, "allow", "deny"):
        raise ValueError(
            f'"{ascii(text[:64])[1:-1]}" is no check; there are {", ".join(CHECKS)}, allow, deny, allow:NETWORK, '
            "deny:NETWORK"
        )
