from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyrtmp.networks import MAX_PROXIES, Networks, forwarded_for, subscriber

PROXIES = Networks(("10.0.0.0/8", "192.0.2.1", "2001:db8::/32"))


@pytest.mark.parametrize(
    ("address", "trusted"),
    [
        ("10.1.2.3", True),
        ("11.1.2.3", False),
        ("192.0.2.1", True),
        ("192.0.2.2", False),
        ("::ffff:10.0.0.1", True),
        ("2001:db8::1", True),
        ("2001:db9::1", False),
        ("fe80::1%eth0", False),
        ("unix", False),
        ("", False),
    ],
)
def test_which_are_trusted(address: str, trusted: bool) -> None:
    assert (address in PROXIES) is trusted
    assert address not in Networks()


@pytest.mark.parametrize("text", ["", "balancer", "10.0.0.1:1935", "10.0.0.0/33", "10.0.0.1/8", "10.0.0", "\x1b[31m"])
def test_what_is_no_network(text: str) -> None:
    with pytest.raises(ValueError, match="should be an address or a network") as caught:
        Networks((text,))
    assert "\x1b" not in str(caught.value)
    assert ("bits behind the prefix" in str(caught.value)) is (text == "10.0.0.1/8")


@pytest.mark.parametrize(
    ("peer", "field", "client"),
    [
        ("10.0.0.1", "203.0.113.9", "203.0.113.9"),
        ("10.0.0.1", "198.51.100.1, 203.0.113.9", "203.0.113.9"),  # the left one is anybody's claim
        ("10.0.0.1", "203.0.113.9, 10.0.0.2 ,192.0.2.1", "203.0.113.9"),
        ("10.0.0.1", "10.9.9.9, 10.0.0.2", "10.9.9.9"),  # everybody is trusted: a client of their own network
        ("10.0.0.1", "", "10.0.0.1"),
        ("10.0.0.1", "unknown", "10.0.0.1"),
        ("10.0.0.1", "203.0.113.9, nonsense, 10.0.0.2", "10.0.0.2"),
        ("10.0.0.1", "203.0.113.9:4711", "203.0.113.9"),
        ("10.0.0.1", "[2001:db9::7]:4711", "2001:db9::7"),
        ("10.0.0.1", "[2001:db9::7]", "2001:db9::7"),
        ("10.0.0.1", "2001:DB9:0::7", "2001:db9::7"),
        ("10.0.0.1", "::ffff:203.0.113.9", "203.0.113.9"),
        ("203.0.113.5", "198.51.100.1", "203.0.113.5"),
        ("unix", "198.51.100.1", "unix"),
        # Through several proxies, each of which adds whom it sees; before them, what a client made up.
        ("10.0.0.1", "127.0.0.1, 203.0.113.9, 10.0.0.3, 2001:db8::7, 192.0.2.1", "203.0.113.9"),
        ("10.0.0.1", "10.0.0.9, 203.0.113.9", "203.0.113.9"),
        ("10.0.0.1", "2001:db9::7%<script>, 10.0.0.2", "10.0.0.2"),
        ("10.0.0.1", "203.0.113.9\r\nX: y", "10.0.0.1"),
        ("10.0.0.1", ",,,", "10.0.0.1"),
        ("10.0.0.1", "203.0.113.9, " + "10.0.0.2," * MAX_PROXIES + "10.0.0.3", "10.0.0.2"),
    ],
)
def test_for_whom_a_proxy_asks(peer: str, field: str, client: str) -> None:
    assert forwarded_for(peer, field, PROXIES) == client
    assert forwarded_for(peer, field, Networks()) == peer


@given(st.text("0123456789abcdef:.[], %\r\x00x", max_size=80))
def test_any_field_gives_an_address(field: str) -> None:
    client = forwarded_for("10.0.0.1", field, PROXIES)
    assert client in PROXIES or forwarded_for("10.0.0.1", client, PROXIES) == client


@pytest.mark.parametrize(
    ("address", "whose"),
    [
        ("203.0.113.9", "203.0.113.9"),
        ("::ffff:203.0.113.9", "203.0.113.9"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::"),
        ("2001:db8:1:2::9%eth0", "2001:db8:1:2::"),
        ("unix", "unix"),
        ("no:address", "no:address"),
    ],
)
def test_whose_address_it_is(address: str, whose: str) -> None:
    assert subscriber(address) == whose
