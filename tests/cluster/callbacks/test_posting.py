"""One request: where it goes, how it is signed, and what a back end cannot do with its answer."""

from __future__ import annotations

import hashlib
import hmac
import socket
import time

import pytest
from aiohttp import web

from cluster.callbacks.events import AnswerError, Reply
from cluster.callbacks.posting import Poster
from tests.cluster.callbacks.backend import TOKEN, Answer, BackEnd, cut, endless, hang, status


async def send(url: str, *, secret: str = "", seconds: float = 5.0, answer_bytes: int = 100) -> Reply:
    poster = Poster()
    try:
        return await again(poster, url, secret=secret, seconds=seconds, answer_bytes=answer_bytes)
    finally:
        await poster.close()


async def again(
    poster: Poster, url: str, *, secret: str = "", seconds: float = 5.0, answer_bytes: int = 100
) -> Reply:
    return await poster.post(
        url, "application/json", b'{"a": 1}', secret=secret, seconds=seconds, answer_bytes=answer_bytes
    )  # fmt: skip


async def test_the_url_is_asked_as_it_is_written(back_end: BackEnd) -> None:
    assert await send(back_end.url) == Reply(200, "", b"0")
    (asked,) = back_end.asked
    assert asked.path == f"/hook?a=%2F&token={TOKEN}" and asked.body == b'{"a": 1}'
    assert asked.headers["Content-Type"] == "application/json"
    assert not any(name.startswith("X-Pyrtmp") for name in asked.headers)


async def test_the_signature_as_a_back_end_verifies_it(back_end: BackEnd) -> None:
    await send(back_end.url, secret="a secret")
    (asked,) = back_end.asked
    timestamp = asked.headers["X-Pyrtmp-Timestamp"]
    assert abs(int(timestamp) - time.time()) < 60
    digest = hmac.new(b"a secret", timestamp.encode() + b"." + asked.body, hashlib.sha256).hexdigest()
    assert asked.headers["X-Pyrtmp-Signature"] == f"sha256={digest}"


async def test_redirects_are_told_and_not_followed(back_end: BackEnd) -> None:
    back_end.answers[""] = status(302, Location=back_end.url)
    assert (await send(back_end.url)) == Reply(302, back_end.url, b"")
    assert len(back_end.asked) == 1


async def test_a_body_of_no_interest_is_not_read(back_end: BackEnd) -> None:
    back_end.answers[""] = endless
    assert await send(back_end.url, answer_bytes=0) == Reply(200)


@pytest.mark.parametrize(
    ("answer", "reason"),
    [(endless, "more than 100 bytes"), (hang, "no answer within 0.2 s"), (cut, "Disconnected"),
     (status(200, "x" * 101), "more than 100 bytes")],
)  # fmt: skip
async def test_what_is_no_answer(back_end: BackEnd, answer: Answer, reason: str) -> None:
    back_end.answers[""] = answer
    with pytest.raises(AnswerError, match=reason) as caught:
        await send(back_end.url, seconds=0.2 if answer is hang else 5.0)
    assert TOKEN not in str(caught.value)


async def test_a_connection_serves_one_question_after_another(back_end: BackEnd) -> None:
    ports: list[int] = []

    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        assert request.transport is not None
        ports.append(request.transport.get_extra_info("peername")[1])
        return web.Response(text="0")

    back_end.answers[""] = answer
    poster = Poster()
    for _ in range(3):
        assert await again(poster, back_end.url) == Reply(200, "", b"0")
    assert len(ports) == 3 and len(set(ports)) == 1
    await poster.close()


async def test_a_question_that_meets_the_end_of_an_idle_connection_is_asked_on_a_new_one(back_end: BackEnd) -> None:
    dropped = 0

    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        nonlocal dropped
        if len(back_end.asked) == 2:  # as a server does whose patience ends at that moment
            dropped += 1
            return await cut(request)
        return web.Response(text="0")

    back_end.answers[""] = answer
    poster = Poster()
    for _ in range(2):
        assert await again(poster, back_end.url) == Reply(200, "", b"0")
    assert dropped == 1 and len(back_end.asked) == 3
    await poster.close()


async def test_nobody_there() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    with pytest.raises(AnswerError) as caught:
        await send(f"http://127.0.0.1:{port}/?token={TOKEN}")
    assert TOKEN not in str(caught.value) and str(port) not in str(caught.value)
