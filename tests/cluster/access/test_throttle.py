from __future__ import annotations

from cluster.access.throttle import MAX_ADDRESSES, Throttle


def test_an_address_that_fails_has_to_wait() -> None:
    now = [0.0]
    throttle = Throttle(6, lambda: now[0])
    for _ in range(6):
        assert not throttle.blocked("203.0.113.7")
        throttle.failed("203.0.113.7")
    assert throttle.blocked("203.0.113.7") and not throttle.blocked("203.0.113.8")
    assert throttle.blocked("::ffff:203.0.113.7")
    now[0] = 9.9
    assert throttle.blocked("203.0.113.7")
    now[0] = 10.0  # one of six is back
    assert not throttle.blocked("203.0.113.7")
    throttle.failed("203.0.113.7")
    assert throttle.blocked("203.0.113.7")
    now[0] = 1e6
    for _ in range(6):
        assert not throttle.blocked("203.0.113.7")
        throttle.failed("203.0.113.7")
    assert throttle.blocked("203.0.113.7")


def test_an_ipv6_customer_is_one_address() -> None:
    throttle = Throttle(1, lambda: 0.0)
    throttle.failed("2001:db8::1")
    assert throttle.blocked("2001:db8::ffff:2") and not throttle.blocked("2001:db8:0:1::1")
    assert not throttle.blocked("unix")


def test_memory_is_bounded() -> None:
    throttle = Throttle(1, lambda: 0.0)
    for number in range(MAX_ADDRESSES + 10):
        throttle.failed(f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}")
    assert len(throttle) == MAX_ADDRESSES
    assert not throttle.blocked("10.0.0.9") and throttle.blocked("10.0.0.10")


def test_no_cap() -> None:
    throttle = Throttle(0)
    for _ in range(1000):
        throttle.failed("203.0.113.7")
    assert not throttle.blocked("203.0.113.7") and not len(throttle)
