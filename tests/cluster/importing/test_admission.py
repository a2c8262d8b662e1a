from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.access.asking import ALLOWED, Action, Answer, Asked, Credentials, Verdict, refuse
from cluster.access.policy import Policy
from cluster.access.rules import Rule
from cluster.access.throttle import Throttle
from cluster.importing.admission import MAX_ENTRIES, Entry, checks
from pyrtmp.names import StreamKey

texts = (
    st.just("all")
    | st.ip_addresses(v=4, network="10.0.0.0/29").map(str)
    | st.tuples(st.ip_addresses(v=4, network="10.0.0.0/29"), st.integers(24, 32)).map(
        lambda pair: "{}/{}".format(*pair)
    )
    | st.tuples(st.ip_addresses(v=6, network="2001:db8::/125"), st.integers(120, 128)).map(
        lambda pair: "{}/{}".format(*pair)
    )
)
lists = st.lists(st.tuples(st.booleans(), texts), max_size=6)
addresses = (
    st.ip_addresses(v=4, network="10.0.0.0/28") | st.ip_addresses(v=6, network="2001:db8::/124") | st.ip_addresses()
)


def decided(entries: list[Entry], otherwise: bool, address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
    """As nginx does it: the first that names the address."""
    for entry in entries:
        if any(address.version == network.version and address in network for network in entry.networks):
            return entry.allow
    return otherwise


@given(lists, st.booleans(), st.booleans(), addresses, st.booleans())
def test_the_rule_decides_as_the_list_does(
    wanted: list[tuple[bool, str]],
    otherwise: bool,
    callback: bool,
    address: ipaddress.IPv4Address | ipaddress.IPv6Address,
    agrees: bool,
) -> None:
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped:
        return  # an IPv4 address, wherever it is written
    entries = [Entry.parse(allow, text) for allow, text in wanted]
    rule = Rule.parse(f"publish live/** {checks(entries, otherwise=otherwise, callback=callback)}")

    def back_end(asked: Asked) -> Answer:
        return ALLOWED if agrees else refuse("denied")

    policy = Policy([rule], {"callback": back_end}, lambda asked: None, throttle=Throttle(0))
    asked = Asked(Action.PUBLISH, StreamKey("live", "cam"), str(address), Credentials.read("", ""), 0.0)
    verdict = policy.decide(asked)
    assert isinstance(verdict, Verdict)
    assert verdict.allowed == (decided(entries, otherwise, address) and (agrees or not callback))


def test_they_read_as_they_were_written() -> None:
    entries = [Entry.parse(True, "10.0.0.1"), Entry.parse(False, "10.0.0.7/8"), Entry.parse(True, "all")]
    assert checks(entries, otherwise=False, callback=False) == "allow:10.0.0.1/32 deny:10.0.0.0/8 allow"
    assert checks(entries[1:2], otherwise=True, callback=True) == "deny:10.0.0.0/8 callback"
    assert checks([], otherwise=True, callback=False) == "allow"
    assert checks([], otherwise=True, callback=True) == "callback"


def test_bad_lists() -> None:
    with pytest.raises(ValueError, match="does not appear to be"):
        Entry.parse(True, "example.org")
    with pytest.raises(ValueError, match="more than 256"):
        checks([Entry.parse(False, "10.0.0.1")] * (MAX_ENTRIES + 1), otherwise=True, callback=False)
