"""``cluster.hostport``: what is ``host:port``.  Ranges of ports are for those who ask it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.hostport import format_host_port, parse_host_port


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("h:1", ("h", 1)),
        ("h", ("h", 7)),
        ("my_cache.internal.:1", ("my_cache.internal.", 1)),
        ("10.0.0.1:99999", ("10.0.0.1", 99999)),
        ("[::1]:1", ("::1", 1)),
        ("[2001:db8::7]", ("2001:db8::7", 7)),
    ],
)
def test_forms(text: str, found: tuple[str, int]) -> None:
    assert parse_host_port(text, form="so", default_port=7) == found


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("h", 'should be so, not "h"'),
        (":1", 'should be so, not ":1"'),
        ("h:", 'should be so, not "h:"'),
        ("h:123456", 'should be so, not "h:123456"'),
        ("::1:1", 'should be so (an IPv6 address stands in brackets), not "::1:1"'),
        ("\x1b[1:1", 'should be so, not "\\x1b[1:1"'),
        ("1.2.3:1", '"1.2.3" is not an IP address'),
        ("[]:1", '"" is not an IP address'),
        ("[10.0.0.1]:1", '"10.0.0.1" is not an IP address'),
        ("a..b:1", '"a..b" is not a host name'),
        ("-a:1", '"-a" is not a host name'),
    ],
)
def test_mistakes(text: str, why: str) -> None:
    with pytest.raises(ValueError) as caught:
        parse_host_port(text, form="so")
    assert str(caught.value) == why


@given(st.text() | st.text("[]:.1a-", max_size=12))
def test_any_text(text: str) -> None:
    try:
        host, port = parse_host_port(text, form="so")
    except ValueError as error:
        assert str(error).isprintable()
    else:
        assert host and 0 <= port <= 99999
        assert parse_host_port(format_host_port(host, port), form="so") == (host, port)
