from __future__ import annotations

from hashlib import sha256

from cluster.access.asking import Action, Verdict
from cluster.access.keys import SCHEME, KeyCheck, hash_key, new_key
from cluster.access.rules import KeyEntry
from tests.cluster.access.asking import ask

KEYS = [new_key() for _ in range(4)]
CHECK = KeyCheck(
    KeyEntry.parse(f"{what} {hash_key(key)}")
    for what, key in zip(("publish live/cam", "publish live/*", "play live/*", "api-read *"), KEYS, strict=True)
)


def reason(query: str, action: Action = Action.PUBLISH, stream: str = "live/cam") -> str | None:
    answer = CHECK(ask(query, action, stream))
    return None if answer is None else answer.reason if not answer.allowed else "allowed"


def test_keys_are_strong_and_need_no_quoting() -> None:
    assert len({new_key() for _ in range(100)}) == 100
    assert all(len(key) == 32 and key.replace("-", "a").replace("_", "a").isalnum() for key in KEYS)
    assert hash_key("abc") == SCHEME + sha256(b"abc").hexdigest()


def test_several_keys_open_a_stream() -> None:
    assert CHECK(ask(f"key={KEYS[0]}", Action.PUBLISH)) == Verdict(True, credential=True)
    assert reason(f"key={KEYS[1]}") == "allowed"
    assert reason(f"key={KEYS[2]}", Action.PLAY) == "allowed"
    assert reason(f"key={KEYS[3]}", Action.API_READ, "") == "allowed"


def test_a_key_of_another_stream_or_action() -> None:
    for query, action, stream in (
        (f"key={KEYS[0]}", Action.PUBLISH, "live/other"),
        (f"key={KEYS[1]}", Action.PLAY, "live/cam"),
        (f"key={KEYS[2]}", Action.PLAY, "vod/cam"),
        (f"key={KEYS[3]}", Action.API_WRITE, ""),
        (f"key={KEYS[3]}", Action.PLAY, "live/cam"),
    ):
        assert reason(query, action, stream) == "key_of_another"


def test_no_key_and_wrong_ones() -> None:
    assert reason("") is None and reason("token=x") is None
    key = KEYS[0]
    for wrong in (key[:-1], key + "A", key.swapcase(), hash_key(key), "%00", "é", "%ff", "%ed%a0%80"):
        answer = CHECK(ask(f"key={wrong}", Action.PUBLISH))
        assert answer is not None and not answer.allowed and answer.guess and answer.reason == "wrong_key"
        assert key not in answer.detail
