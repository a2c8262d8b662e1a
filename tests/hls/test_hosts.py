"""``hls.hosts``."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hls.hosts import Hosts, host_name, is_address

HOSTS = Hosts(("Live.example.org", "*.cdn.example.org", "10.0.0.1", "2001:db8::1"))


@pytest.mark.parametrize("field", [
    "live.example.org", "live.example.org:8080", "LIVE.example.org.", "a.cdn.example.org", "a.b.cdn.example.org:1",
    "10.0.0.1:80", "[2001:db8::1]:80", "[2001:DB8::1]", "localhost:8080", "127.0.0.9", "[::1]",
])  # fmt: skip
def test_its_own_names(field: str) -> None:
    assert field in HOSTS


@pytest.mark.parametrize("field", [
    "", "example.org", "cdn.example.org", "xcdn.example.org", "live.example.org.evil.org", "evil.org", "10.0.0.2",
    "[2001:db8::2]", "localhost.evil.org", "127.0.0.1.evil.org", "live.example.org:", "live.example.org:x",
    "user@live.example.org", "live.example.org/", "live.example.org\r\nX: y", " live.example.org", "*.cdn.example.org",
])  # fmt: skip
def test_names_of_others(field: str) -> None:
    assert field not in HOSTS


@pytest.mark.parametrize("name", ["", "a b", "http://a", "a:80", "*", "*.", "a*.org", "a/b", "\x1b", "[::1]", "a..b"])
def test_what_is_no_name(name: str) -> None:
    with pytest.raises(ValueError, match="without port") as caught:
        Hosts((name,))
    assert "\x1b" not in str(caught.value)


def test_none() -> None:
    assert not Hosts() and Hosts(("*.a",)) and Hosts(("a",))


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.1:1985", "[::1]:1985", "[::1]", "localhost:1", "LOCALHOST"])
def test_local_names(host: str) -> None:
    assert is_address(host)


@pytest.mark.parametrize("host", ["", "evil.org", "localhost.evil.org", "127.0.0.1.evil.org", "[evil]", "[", ":"])
def test_names_that_somebody_gave(host: str) -> None:
    assert not is_address(host)


@given(st.text(max_size=40))
def test_any_field_has_a_name_or_none(field: str) -> None:
    name = host_name(field)
    assert name == name.lower() and "/" not in name and "@" not in name
