from __future__ import annotations

import pytest

from cluster.access.asking import Action
from cluster.access.rules import KeyEntry, Rule

HASH = "sha256:" + "0f" * 32


def test_a_rule() -> None:
    rule = Rule.parse(" publish,play  live/*   deny:10.0.0.0/8 key  signed ")
    assert rule.checks == ("deny:10.0.0.0/8", "key", "signed")
    assert rule.covers(Action.PUBLISH, "live/cam") and rule.covers(Action.PLAY, "live/x")
    assert not rule.covers(Action.PLAY, "vod/cam") and not rule.covers(Action.API_READ, "")


def test_a_star_is_for_streams_not_for_the_api() -> None:
    rule = Rule.parse("* * allow")
    assert rule.covers(Action.PUBLISH, "a/b/c") and rule.covers(Action.PLAY, "a/b")
    assert not rule.covers(Action.API_READ, "") and not rule.covers(Action.API_WRITE, "")
    assert Rule.parse("api-read * allow").covers(Action.API_READ, "")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "should be ACTIONS PATTERN CHECKS"),
        ("publish live/*", "should be ACTIONS PATTERN CHECKS"),
        ("read live/* key", "should begin with an action"),
        ("publish, play live/* key", "should begin with an action"),
        ("publish live// key", "should be a pattern"),
        ("publish live/* keys", "is no check"),
        ("publish live/* allow:10.0.0.1/8", "bits behind the prefix are set"),
        ("publish live/* key:10.0.0.0/8", "is no check"),
        ("api-read live/* key", "its pattern is *"),
        ("publish live/* \x1b[31m", "is no check"),
    ],
)
def test_what_is_no_rule(text: str, reason: str) -> None:
    with pytest.raises(ValueError) as caught:
        Rule.parse(text)
    assert reason in str(caught.value) and str(caught.value).isprintable()


def test_a_key() -> None:
    entry = KeyEntry.parse(f"publish live/cam {HASH}")
    assert (entry.actions, entry.digest) == ({Action.PUBLISH}, b"\x0f" * 32)


@pytest.mark.parametrize(
    "text", ["hunter2", "publish live/cam hunter2", f"publish live/cam {HASH} hunter2", f"publish live/cam {HASH[:-1]}"]
)
def test_a_key_that_was_not_hashed_is_not_shown(text: str) -> None:
    with pytest.raises(ValueError) as caught:
        KeyEntry.parse(text)
    assert "hunter2" not in str(caught.value)
