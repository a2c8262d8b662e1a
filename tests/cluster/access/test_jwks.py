from __future__ import annotations

import asyncio
import gzip
import json
from collections.abc import AsyncIterator

import pytest
from joserfc.jwk import OctKey
from structlog.testing import capture_logs

from cluster.access.asking import Asked, Verdict
from cluster.access.jwks import AGAIN_SECONDS, MAX_BYTES, OLD_SECONDS, Jwks, parse_keys
from cluster.access.tokens import TokenCheck, TokenRules
from tests.cluster.access.asking import ask
from tests.cluster.access.issuer import SECRET, Site, claims, key, token

RULES = TokenRules(algorithms=("RS256", "ES256", "HS256"), claim="permissions")


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
async def site() -> AsyncIterator[Site]:
    site = Site("RS256")
    yield site
    await site.close()


async def decide(check: TokenCheck, asked: Asked) -> str:
    answer = check(asked)
    verdict = await answer if not isinstance(answer, Verdict) and answer is not None else answer
    assert verdict is not None
    return "allowed" if verdict.allowed else verdict.reason


def asked(algorithm: str = "RS256", **header: object) -> Asked:
    return ask(f"token={token(claims(), algorithm, **header)}")


async def test_keys_are_fetched_once(site: Site) -> None:
    check = TokenCheck(RULES, [], Jwks(await site.start()))
    answers = await asyncio.gather(*(decide(check, asked(kid="rsa")) for _ in range(20)))
    assert answers == ["allowed"] * 20 and site.asked == ["/keys"]
    assert isinstance(check(asked(kid="rsa")), Verdict)  # nobody waits any more
    assert await decide(check, asked()) == "allowed"  # without a kid, whichever fits


async def test_unknown_keys_are_looked_for_now_and_then(site: Site) -> None:
    clock = Clock()
    check = TokenCheck(RULES, [], Jwks(await site.start(), clock))
    assert await decide(check, asked("ES256", kid="ec-ES256")) == "bad_token"
    for number in range(50):  # who makes names up does not make the node ask
        assert await decide(check, asked("ES256", kid=f"made-up-{number}")) == "bad_token"
    assert len(site.asked) == 1
    site.keys += Site("ES256").keys  # the issuer has a new one
    assert await decide(check, asked("ES256", kid="ec-ES256")) == "bad_token"
    clock.now = AGAIN_SECONDS
    assert await decide(check, asked("ES256", kid="ec-ES256")) == "allowed"
    assert await decide(check, asked(kid="rsa")) == "allowed"
    assert len(site.asked) == 2


async def test_old_keys_serve_while_new_ones_are_fetched(site: Site) -> None:
    clock = Clock()
    jwks = Jwks(await site.start(), clock)
    check = TokenCheck(RULES, [], jwks)
    assert await decide(check, asked(kid="rsa")) == "allowed"
    clock.now = OLD_SECONDS + 1
    site.status = 500
    with capture_logs() as log:
        assert isinstance(check(asked(kid="rsa")), Verdict)
        fetch = jwks.begin()
        assert fetch is not None
        await fetch
    assert len(site.asked) == 2 and [each["event"] for each in log] == ["jwks_failed"]
    assert await decide(check, asked(kid="rsa")) == "allowed"  # what was known stays
    site.status, site.keys = 200, Site("ES256").keys
    clock.now += AGAIN_SECONDS
    jwks.keep_fresh()
    fetch = jwks.begin()
    assert fetch is not None
    await fetch
    assert await decide(check, asked(kid="rsa")) == "bad_token"  # withdrawn


@pytest.mark.parametrize("body", [b"", b"[]", b"{}", b'{"keys": 5}', b'{"keys": []}', b"\xff", b"[" * 100_000])
async def test_what_is_no_set_of_keys(site: Site, body: bytes) -> None:
    check = TokenCheck(RULES, [], Jwks(await site.start()))
    site.body = body
    with capture_logs() as log:
        assert await decide(check, asked(kid="rsa")) == "no_token_keys"
    assert [each["event"] for each in log] == ["jwks_failed"]


async def test_more_than_keys_take_is_not_read(site: Site) -> None:
    site.body = json.dumps({"keys": site.keys, "x": "y" * MAX_BYTES}).encode()
    check = TokenCheck(RULES, [], Jwks(await site.start()))
    assert await decide(check, asked(kid="rsa")) == "no_token_keys"


async def test_nothing_is_unpacked(site: Site) -> None:
    """A few kilobytes may hold as many megabytes."""
    site.body, site.encoding = gzip.compress(json.dumps({"keys": site.keys}).encode() + b" " * 50_000_000), "gzip"
    assert len(site.body) < MAX_BYTES
    check = TokenCheck(RULES, [], Jwks(await site.start()))
    with capture_logs() as log:
        assert await decide(check, asked(kid="rsa")) == "no_token_keys"
    assert log[0]["error"] == "not JSON"


@pytest.mark.parametrize("status", [200, 500])
async def test_the_log_does_not_show_the_query(site: Site, status: int) -> None:
    site.status = status
    url = await site.start()
    check = TokenCheck(RULES, [], Jwks(f"{url}?code=s3cret"))
    with capture_logs() as log:
        await decide(check, asked(kid="rsa"))
    assert log[0]["url"] == url and "s3cret" not in repr(log)


async def test_only_that_url_is_asked(site: Site) -> None:
    elsewhere = Site("RS256")
    try:
        there = await elsewhere.start()
        here = await site.start()
        site.status, site.location = 302, there
        check = TokenCheck(RULES, [], Jwks(here))
        for header in ({"jku": there}, {"x5u": there}, {"kid": there}):
            assert await decide(check, asked(**header)) in ("no_token_keys", "bad_token")
        assert elsewhere.asked == [] and site.asked == ["/keys"]
    finally:
        await elsewhere.close()


async def test_one_that_hangs_holds_nobody_else_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cluster.access.jwks.FETCH_SECONDS", 0.2)
    reached = asyncio.Event()

    async def hang(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        reached.set()
        await reader.read()
        writer.close()

    server = await asyncio.start_server(hang, "127.0.0.1", 0)
    host, port = server.sockets[0].getsockname()
    jwks = Jwks(f"http://{host}:{port}/")
    check = TokenCheck(RULES, [], jwks)
    waiting = asyncio.create_task(decide(check, asked(kid="rsa")))
    await reached.wait()
    assert not waiting.done()
    other = check(asked("HS256"))
    assert isinstance(other, Verdict) and not other.allowed
    assert await waiting == "no_token_keys"
    assert isinstance(check(asked(kid="rsa")), Verdict)  # too early to try again
    await jwks.close()
    server.close()
    await server.wait_closed()


def test_only_public_keys_that_sign_are_taken() -> None:
    public = key("RS256").as_dict(private=False)
    secret = OctKey.import_key(SECRET).as_dict(private=True)
    bad = [5, {}, {"kty": "RSA"}, {"kty": "XXX"}, {"kty": ["RSA"]}, {**public, "use": "enc"}, {**public, "n": "!"}]
    bad.append(secret)
    assert len(parse_keys(json.dumps({"keys": [*bad, public]}).encode())) == 1
    with pytest.raises(ValueError, match="no key"):
        parse_keys(json.dumps({"keys": bad}).encode())
