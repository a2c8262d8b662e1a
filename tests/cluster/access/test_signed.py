from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from cluster.access.asking import Action
from cluster.access.signed import SignedCheck, canonical, sign, sign_url, signed_query
from tests.cluster.access.asking import NOW, ask

SECRET = "the first secret"
OLD = "the second secret"
CHECK = SignedCheck((SECRET, OLD))
LATER = int(NOW) + 60


def reason(query: str, action: Action = Action.PLAY, stream: str = "live/cam", **more: object) -> str:
    answer = CHECK(ask(query, action, stream, **more))  # type: ignore[arg-type]
    return "no opinion" if answer is None else "allowed" if answer.allowed else answer.reason


def test_a_known_signature() -> None:
    """The form is a contract: other programs sign, too."""
    assert canonical("play", "live/cam", 1900000000) == b"pyrtmp1\nplay\nlive/cam\n1900000000\n"
    assert sign("0123456789abcdef", "play", "live/cam", 1900000000, "203.0.113.7") == (
        "oVWov7T9ry3qsfHgHlJy7U_z-2P9MrqQlmtK5u54xiE"
    )


@pytest.mark.parametrize("secret", [SECRET, OLD])
def test_any_of_the_secrets_serves(secret: str) -> None:
    answer = CHECK(ask(signed_query(secret, "play", "live/cam", LATER)))
    assert answer is not None and answer.allowed and answer.until == LATER


def test_what_it_is_not_for() -> None:
    good = signed_query(SECRET, "play", "live/cam", LATER)
    bound = signed_query(SECRET, "play", "live/cam", LATER, "203.0.113.7")
    assert reason(good) == reason(bound) == "allowed"
    assert reason(good, stream="live/other") == "bad_signature"
    assert reason(good, stream="live/cam/x") == "bad_signature"
    assert reason(good, Action.PUBLISH) == "bad_signature"
    assert reason(good, now=LATER) == reason(good, now=LATER + 1e6) == "expired"
    assert reason(good, now=LATER - 0.1) == "allowed"
    assert reason(bound, address="203.0.113.8") == "wrong_address"
    assert reason(bound, address="::ffff:203.0.113.7") == "allowed"
    assert reason(bound.replace("&ip=203.0.113.7", "")) == "bad_signature"
    assert reason(bound.replace("113.7", "113.8"), address="203.0.113.8") == "bad_signature"
    assert reason(f"{good}&ip=203.0.113.7") == "bad_signature"
    assert reason(good.replace(str(LATER), str(LATER + 1))) == "bad_signature"
    assert reason(signed_query("another secret", "play", "live/cam", LATER)) == "bad_signature"
    assert reason(good, Action.API_READ, "") == "no opinion"
    assert reason("") == reason(f"expires={LATER}") == "no opinion"


def test_truncated_at_every_offset() -> None:
    good = signed_query(SECRET, "play", "live/cam", LATER, "203.0.113.7")
    for length in range(len(good)):
        assert reason(good[:length]) in ("bad_signature", "no opinion"), good[:length]


def test_every_bit_of_the_signature_counts() -> None:
    """Also the two bits that base64 has to spare at its end."""
    good = sign(SECRET, "play", "live/cam", LATER)
    letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    for letter in letters:
        text = good[:-1] + letter
        assert (reason(f"expires={LATER}&sign={text}") == "allowed") == (text == good)
    assert reason(f"expires={LATER}&sign={good}%3D") == "bad_signature"


@pytest.mark.parametrize(
    "expires", ["", "-1", "0", "1e12", "+5", "%D9%A1", "9" * 13, "9" * 6000, "0" + str(LATER), " 5"]
)
def test_times_that_are_none(expires: str) -> None:
    text = sign(SECRET, "play", "live/cam", LATER)
    answer = CHECK(ask(f"expires={expires}&sign={text}"))
    assert answer is not None and answer.reason in ("bad_signature", "bad_credential")


parts = st.text(alphabet=st.sampled_from("ab/\n1."), max_size=5)


@given(*[st.tuples(parts, parts, st.integers(0, 12), parts)] * 2)
@example(("a", "b\n1", 1, ""), ("a", "b", 1, "1"))
def test_two_questions_never_have_one_text(one: tuple[str, str, int, str], other: tuple[str, str, int, str]) -> None:
    try:
        texts = canonical(*one), canonical(*other)
    except ValueError:
        assert any("\n" in each for each in (*one[:2], one[3], *other[:2], other[3]))
    else:
        assert (texts[0] == texts[1]) == (one == other)


@given(st.binary(max_size=40), st.text(max_size=60))
def test_nothing_made_up_passes(sign_bytes: bytes, expires: str) -> None:
    assert reason(f"sign={sign_bytes.hex()}&expires={expires}") in ("bad_signature", "no opinion")


@pytest.mark.parametrize(
    "url",
    [
        "rtmp://host/live/cam", "rtmps://host:1936/live/cam", "http://host:8080/live/cam.flv",
        "https://host/live/cam.m3u8", "http://host/live/cam/index.m3u8?x=1",
    ],
)  # fmt: skip
def test_urls(url: str) -> None:
    signed = sign_url(SECRET, "play", url, LATER)
    assert signed.startswith(url + ("&" if "?" in url else "?"))
    assert reason(signed.partition("?")[2]) == "allowed"


@pytest.mark.parametrize(
    "url", ["live/cam", "ftp://host/live/cam", "http://host/cam.flv", "rtmp://host/a/../b", "rtmp://host"]
)
def test_urls_of_no_stream(url: str) -> None:
    with pytest.raises(ValueError):
        sign_url(SECRET, "play", url, LATER)
    with pytest.raises(ValueError):
        sign_url(SECRET, "play", "rtmp://host/live/cam", LATER, "nowhere")
