"""``hls.answers``: header lines and conditions.  Whole answers: ``test_http``."""

from __future__ import annotations

import pytest

from hls.answers import answer_head, header_fields, matches


@pytest.mark.parametrize(
    ("condition", "yes"), [("", False), ('"a"', True), ("a", False), ('W/"a"', True), ('"b"', False), ("*", True)]
)
def test_matches(condition: str, yes: bool) -> None:
    assert matches(condition, '"a"') is yes


def test_header_lines() -> None:
    fields = header_fields("text/css", "no-store", "", "*", "", "X-More: 1\r\n")
    assert fields == (
        b"Server: pyrtmp\r\nX-Content-Type-Options: nosniff\r\nContent-Type: text/css\r\nCache-Control: no-store\r\n"
        b"Access-Control-Allow-Origin: *\r\nX-More: 1\r\n"
    )


@pytest.mark.parametrize(
    ("length", "connection", "ends"),
    [(0, "", b"Content-Length: 0\r\n"), (None, "close", b"Connection: close\r\n"), (None, "", b"")],
)
def test_the_end_of_an_answer(length: int | None, connection: str, ends: bytes) -> None:
    head = answer_head(404, b"A: b\r\n", length, connection, 1)
    assert head == b"HTTP/1.1 404 Not Found\r\nDate: Thu, 01 Jan 1970 00:00:01 GMT\r\n" + ends + b"A: b\r\n\r\n"
