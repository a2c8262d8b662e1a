"""``cluster.registry.urls``: each form, each mistake, and no password anywhere."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.registry import Target, connect, parse
from cluster.registry.clients import Clients
from cluster.registry.memory import MemoryRegistry
from cluster.registry.redis import RedisRegistry


@pytest.mark.parametrize(
    ("url", "target", "text"),
    [
        ("memory://", Target(kind="memory"), "memory://"),
        ("redis://cache", Target(kind="redis", hosts=(("cache", 6379),)), "redis://cache:6379"),
        ("REDIS://cache:1/", Target(kind="redis", hosts=(("cache", 1),)), "redis://cache:1"),
        (
            "redis://me:p%40ss%3Aw%2Frd@[::1]:7000/3",
            Target(kind="redis", hosts=(("::1", 7000),), user="me", password="p@ss:w/rd", database=3),
            "redis://[::1]:7000/3",
        ),
        (
            "redis://:secret@10.0.0.1",
            Target(kind="redis", hosts=(("10.0.0.1", 6379),), password="secret"),
            "redis://10.0.0.1:6379",
        ),
        (
            "rediss://cache?ca=/etc/ca.pem&cert=c.pem&key=k.pem&verify=ca",
            Target(
                kind="redis",
                hosts=(("cache", 6379),),
                tls=True,
                ca="/etc/ca.pem",
                cert="c.pem",
                key="k.pem",
                verify="ca",
            ),
            "rediss://cache:6379",
        ),
        (
            "redis+sentinel://u:p@h1:1,h2/cam/2?sentinel_password=s%20s",
            Target(
                kind="sentinel",
                hosts=(("h1", 1), ("h2", 26379)),
                user="u",
                password="p",
                database=2,
                service="cam",
                sentinel_password="s s",
            ),
            "redis+sentinel://h1:1,h2:26379/cam/2",
        ),
        (
            "rediss+cluster://h1,h2:7",
            Target(kind="cluster", hosts=(("h1", 6379), ("h2", 7)), tls=True),
            "rediss+cluster://h1:6379,h2:7",
        ),
    ],
)
def test_forms(url: str, target: Target, text: str) -> None:
    assert parse(url) == target
    assert str(target) == text


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("", "printable"),
        ("redis://a b", "printable"),
        ("redis://é", "printable"),
        ("redis://a\n", "printable"),
        ("cache:6379", "begin with one of memory://, redis://"),
        ("http://cache", "begin with one of"),
        ("memory://x", "nothing behind"),
        ("memory://?x=1", "nothing behind"),
        ("redis://", "a host is missing"),
        ("redis://@", "a host is missing"),
        ("redis://:6379", "should be host or host:port"),
        ("redis://a,b", "takes one host"),
        ("redis+cluster://a,,b", "a host is missing"),
        ("redis+cluster://a,a:6379", "twice"),
        ("redis://a:0", "1 to 65535"),
        ("redis://a:65536", "1 to 65535"),
        ("redis://a:b", "host:port"),
        ("redis://::1", "brackets"),
        ("redis://[::x]", "not an IP address"),
        ("redis://1.2.3", "not an IP address"),
        ("redis://-a", "not a host name"),
        ("redis://u:topsecret@v@h", "%40"),
        ("redis://u:topsecret:x@h", "%3A"),
        ("redis://u:topsecret#@h", "%23"),
        ("redis://u:topsecret%@h", "%25"),
        ("redis://u:topsecret%ff@h", "UTF-8"),
        ("redis://u:topsecret%00@h", "NUL"),
        ("redis://h/x", "number"),
        ("redis://h/1/2", "number"),
        ("redis+sentinel://h", "name the service"),
        ("redis+sentinel://h/", "name the service"),
        ("redis+sentinel://h/a%20b", "name the service"),
        ("redis+sentinel://h/a/b", "number"),
        ("redis+cluster://h/1", "only database 0"),
        ("redis://h?db=1", "only ca, cert"),
        ("redis://h?password=topsecret", "only ca, cert"),
        ("redis://h?ca=x", "begin with rediss"),
        ("rediss://h?ca=", "without a value"),
        ("rediss://h?ca", "without a value"),
        ("rediss://h?ca=a&ca=b", "twice"),
        ("rediss://h?verify=maybe", "full, ca or none"),
        ("rediss://h?key=k", "needs cert"),
        ("redis://h?sentinel_password=topsecret", "for redis+sentinel"),
        ("redis+sentinel://h/s?sentinel_user=u", "needs sentinel_password"),
    ],
)
def test_mistakes(url: str, why: str) -> None:
    with pytest.raises(ValueError) as caught:
        parse(url)
    assert why in str(caught.value)
    assert "topsecret" not in str(caught.value)


@given(st.text(max_size=40) | st.text("redis+:/@,?=%[]a1", max_size=20).map(lambda text: f"redis://{text}"))
def test_any_text(url: str) -> None:
    try:
        target = parse(url)
    except ValueError:
        return
    assert target.hosts or target.kind == "memory"


@given(st.text(min_size=1, max_size=30).filter(lambda text: "\0" not in text and text.isprintable()))
def test_passwords_of_any_characters(password: str) -> None:
    from urllib.parse import quote

    assert parse(f"redis://:{quote(password, safe='')}@h").password == password


async def test_no_password_is_shown() -> None:
    url = "redis+sentinel://user:topsecret@127.0.0.1:1/cam?sentinel_password=topsecret"
    target = parse(url)
    registry = connect(url)
    assert isinstance(registry, RedisRegistry)
    await registry.open()
    for text in (repr(target), str(target), repr(registry), str(vars(target) if hasattr(target, "__dict__") else "")):
        assert "topsecret" not in text
    with pytest.raises(Exception) as caught:
        await registry.nodes()
    chain: BaseException | None = caught.value
    assert chain is not None and "topsecret" not in repr(chain)
    assert chain.__cause__ is None and chain.__suppress_context__
    await registry.close()


def test_kinds() -> None:
    assert isinstance(connect("memory://"), MemoryRegistry)
    with pytest.raises(ValueError):
        connect("redis://h", "a{b}")
    with pytest.raises(ValueError):
        connect("nothing")


@pytest.mark.parametrize("kind", ["redis", "sentinel", "cluster"])
async def test_each_wait_of_each_client_has_an_end(kind: str) -> None:
    target = parse({"redis": "redis://h", "sentinel": "redis+sentinel://h/s", "cluster": "redis+cluster://h"}[kind])
    clients = Clients(target)
    commands = clients.commands()
    options = commands.connection_kwargs if kind == "cluster" else commands.connection_pool.connection_kwargs
    assert options["socket_timeout"] == options["socket_connect_timeout"] == 1.0
    await clients.close()
