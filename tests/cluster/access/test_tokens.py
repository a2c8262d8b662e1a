from __future__ import annotations

import json
from inspect import isawaitable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.access.asking import Action, Asked, Verdict
from cluster.access.tokens import (
    ALGORITHMS,
    LEEWAY_SECONDS,
    MAX_TOKEN,
    TokenCheck,
    TokenRules,
    permits,
    public_key,
    secret_key,
)
from tests.cluster.access.asking import NOW, ask
from tests.cluster.access.issuer import SECRET, b64, claims, key, pem, token

RULES = TokenRules(algorithms=("HS256", "RS256", "ES256", "EdDSA"), claim="permissions")


def decide(check: TokenCheck, asked: Asked) -> Verdict | None:
    answer = check(asked)
    assert not isawaitable(answer)
    return answer


def reason(text: str, check: TokenCheck | None = None, action: Action = Action.PLAY, stream: str = "live/cam") -> str:
    verdict = decide(check or TokenCheck(RULES, [secret_key(SECRET)]), ask(f"token={text}", action, stream))
    assert verdict is not None
    assert len(text) < 8 or text not in verdict.detail
    return "allowed" if verdict.allowed else verdict.reason


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_every_algorithm(algorithm: str) -> None:
    rules = TokenRules(algorithms=(algorithm,), claim="permissions")
    known = secret_key(SECRET) if algorithm.startswith("HS") else public_key(pem(algorithm))
    good = token(claims(), algorithm)
    verdict = decide(TokenCheck(rules, [known]), ask(f"token={good}"))
    assert verdict is not None and verdict.allowed and verdict.until == NOW + 60
    # One that is not allowed is not tried.
    assert reason(good, TokenCheck(TokenRules(algorithms=(), claim="permissions"), [known])) == "bad_token"


def test_no_token_is_no_opinion() -> None:
    assert decide(TokenCheck(RULES, [secret_key(SECRET)]), ask("key=x")) is None


@pytest.mark.parametrize(
    ("more", "why"),
    [
        ({}, "allowed"),
        ({"exp": NOW - LEEWAY_SECONDS}, "expired"),
        ({"exp": NOW - LEEWAY_SECONDS + 1}, "allowed"),
        ({"exp": None}, "token_claims"),
        ({"exp": "9999999999"}, "token_claims"),
        ({"exp": True}, "token_claims"),
        ({"exp": float("nan")}, "token_claims"),
        ({"exp": float("inf")}, "token_claims"),
        ({"exp": 10**400}, "allowed"),
        ({"nbf": NOW + LEEWAY_SECONDS + 1}, "token_claims"),
        ({"nbf": NOW + LEEWAY_SECONDS}, "allowed"),
        ({"nbf": "tomorrow"}, "token_claims"),
        ({"permissions": None}, "not_permitted"),
        ({"permissions": "play"}, "not_permitted"),
        ({"permissions": [None, 5, {}, {"action": 5}, {"action": "play", "path": 5}]}, "not_permitted"),
    ],
)  # fmt: skip
def test_claims(more: dict[str, Any], why: str) -> None:
    assert reason(token({**claims(), **more})) == why


def test_issuer_and_audience() -> None:
    rules = TokenRules(algorithms=("HS256",), claim="permissions", issuer="https://id", audience="video")
    check = TokenCheck(rules, [secret_key(SECRET)])
    assert reason(token(claims(iss="https://id", aud="video")), check) == "allowed"
    assert reason(token(claims(iss="https://id", aud=["x", "video"])), check) == "allowed"
    for wrong in ({}, {"iss": "https://id"}, {"aud": "video"}, {"iss": "https://id", "aud": "vide"},
                  {"iss": ["https://id"], "aud": "video"}, {"iss": "https://id", "aud": {"video": 1}}):  # fmt: skip
        assert reason(token(claims(**wrong)), check) == "token_claims", wrong


@pytest.mark.parametrize(
    ("permission", "action", "stream", "yes"),
    [
        ({"action": "play"}, Action.PLAY, "live/cam", True),
        ({"action": "play", "path": ""}, Action.PLAY, "live/cam", True),
        ({"action": "read", "path": "live/cam"}, Action.PLAY, "live/cam", True),
        ({"action": "play", "path": "live/*"}, Action.PLAY, "live/cam", True),
        ({"action": "play", "path": "live/*"}, Action.PLAY, "live/room/cam", False),
        ({"action": "play", "path": "live/c"}, Action.PLAY, "live/cam", False),
        ({"action": "play", "path": "~.*"}, Action.PLAY, "live/cam", False),
        ({"action": "play", "path": "live/cam"}, Action.PUBLISH, "live/cam", False),
        ({"action": "publish", "path": "live/cam"}, Action.PUBLISH, "live/cam", True),
        ({"action": "api-read"}, Action.API_READ, "", True),
        ({"action": "api-read"}, Action.API_WRITE, "", False),
        ({"action": "read"}, Action.API_READ, "", False),
        ({"action": "*"}, Action.PLAY, "live/cam", False),
        ({"path": "live/cam"}, Action.PLAY, "live/cam", False),
    ],
)
def test_permissions(permission: dict[str, str], action: Action, stream: str, yes: bool) -> None:
    assert permits([{"action": "nothing"}, permission], action, stream) == yes
    assert (reason(token(claims(permission)), action=action, stream=stream) == "allowed") == yes


json_values = st.recursive(
    st.none() | st.booleans() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(["action", "path", "x"]), inner),
)


@given(json_values)
def test_no_claim_breaks_it(value: Any) -> None:
    assert permits(value, Action.API_WRITE, "") is False


# Attacks


def test_no_algorithm_is_none() -> None:
    for name in ("none", "None", "NONE", "nOnE", ""):
        for signature in ("", b64(b"x")):
            assert reason(f"{b64({'alg': name})}.{b64(claims())}.{signature}") == "bad_token"
    for header in ({}, {"alg": None}, {"alg": ["HS256"]}, {"alg": {"a": 1}}, {"alg": 5}, {"alg": "A" * 1000}):
        assert reason(f"{b64(header)}.{b64(claims())}.{b64(b'x')}") == "bad_token"


def test_a_public_key_is_no_secret() -> None:
    """RS256 turned into HS256, signed with what everybody knows."""
    check = TokenCheck(RULES, [public_key(pem("RS256"))])
    assert reason(token(claims(), "RS256"), check) == "allowed"
    for secret in (pem("RS256"), pem("RS256").strip(), key("RS256").as_der(private=False)):
        assert reason(token(claims(), "HS256", secret), check) == "bad_token"
    both = TokenCheck(RULES, [public_key(pem("RS256")), secret_key(SECRET)])
    assert reason(token(claims(), "HS256", pem("RS256")), both) == "bad_token"
    assert reason(token(claims()), both) == "allowed"


@pytest.mark.parametrize("algorithm", ["RS256", "ES256", "EdDSA"])
def test_a_key_that_the_token_brings_along_does_not_count(algorithm: str) -> None:
    other = "ES256" if algorithm != "ES256" else "RS256"
    check = TokenCheck(RULES, [public_key(pem(other))])
    own = key(algorithm).as_dict(private=False)
    for header in ({"jwk": own}, {"jku": "http://127.0.0.1:1/keys"}, {"x5u": "http://127.0.0.1:1/"}, {"x5c": ["AA=="]}):
        assert reason(token(claims(), algorithm, **header), check) == "bad_token"


@pytest.mark.parametrize("kid", [5, [], {}, True, "k" * 257, "../../dev/null", "' OR 1=1 --", "\x00", "é"])
def test_kid_is_only_a_name(kid: Any) -> None:
    good = TokenCheck(RULES, [secret_key(SECRET)])
    wanted = "allowed" if isinstance(kid, str) and len(kid) <= 256 else "bad_token"
    assert reason(token(claims(), kid=kid), good) == wanted  # a key of the configuration has no name
    assert reason(token(claims(), secret="another secret of 32 characters..", kid=kid), good) == "bad_token"


@pytest.mark.parametrize("crit", [["exp"], ["b64"], 5, "exp", [[]], None])
def test_what_it_does_not_understand_it_refuses(crit: Any) -> None:
    """RFC 7515, 4.1.11: a critical header that is not understood makes the token invalid."""
    assert reason(token(claims(), crit=crit, b64=False)) == "bad_token"


@pytest.mark.parametrize(
    "text",
    [
        "..", "a.b.c", "....", "a.b", "é.é.é", "%00.%00.%00", f"{b64('5')}.x.y", f"{b64('[]')}.x.y",
        f"{b64('[' * 2900)}.x.y", f"{b64('{' + chr(34) + 'a' + chr(34) + ':' + '9' * 2000 + '}')}.x.y",
        token(claims(x="y" * MAX_TOKEN)), b64({"alg": "HS256"}) + "." * 2, b64({"alg": "HS256"}) + "." * 4000,
    ],
)  # fmt: skip
def test_garbage(text: str) -> None:
    assert reason(text) == "bad_token"


@pytest.mark.parametrize("payload", ["[]", "5", "null", "", "{", "[" * 2500, "\xff", '{"exp":' + "9" * 2600 + "}"])
def test_a_genuine_token_may_be_garbage(payload: str) -> None:
    assert reason(token(payload)) in ("bad_token", "not_permitted")


@pytest.mark.parametrize("algorithm", ["HS256", "ES256"])
def test_truncated_at_every_offset(algorithm: str) -> None:
    check = TokenCheck(RULES, [secret_key(SECRET), public_key(pem("ES256"))])
    good = token(claims(), algorithm)
    assert reason(good, check) == "allowed"
    for length in range(1, len(good)):
        assert reason(good[:length], check) == "bad_token", length


@given(st.data())
def test_no_byte_of_it_may_change(data: st.DataObject) -> None:
    good = token(claims())
    at = data.draw(st.integers(0, len(good) - 2))  # the last letter has bits to spare
    letter = data.draw(st.sampled_from("AZaz09-_.").filter(lambda each: each != good[at]))
    assert reason(good[:at] + letter + good[at + 1 :]) == "bad_token"


def test_public_keys() -> None:
    for wrong in ("", "x", pem("RS256").replace("M", "N"), json.dumps(key("ES256").as_dict(private=False))):
        with pytest.raises(ValueError, match="is not a public key"):
            public_key(wrong)
    with pytest.raises(ValueError, match="is a private key"):
        public_key(key("RS256").as_pem(private=True).decode())
