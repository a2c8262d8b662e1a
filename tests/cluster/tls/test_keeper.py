"""``cluster.tls.keeper``: files change while a node runs."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest
from structlog.testing import capture_logs

from cluster.tls.identity import Files, Identity, IdentityError
from cluster.tls.keeper import Keeper
from tests.cluster.tls.authority import Authority
from tests.cluster.workers.real_node import eventually

LOOK = 0.02


class Watched:
    """A keeper, what it told and what it logged."""

    def __init__(self, files: Files, events: Any) -> None:
        self.told: list[Identity] = []
        self._events = events
        self.keeper = Keeper(files, self.told.append, look_seconds=LOOK)
        self.keeper.start()

    def named(self, *names: str) -> list[Any]:
        return [each for each in self._events if each["event"] in names]


@contextmanager
def watching(files: Files) -> Iterator[Watched]:
    with capture_logs() as events:
        watched = Watched(files, events)
        yield watched
        watched.keeper.close()


async def test_a_new_certificate(authority: Authority) -> None:
    pair = authority.issue("server")
    with watching(pair.files) as watched:
        assert [each["days_left"] for each in watched.named("certificate_in_use")] == [29]
        pair.replace(authority.issue("next", days=60))
        await eventually(lambda: watched.told)
        assert watched.told == [watched.keeper.identity]
        assert [each["days_left"] for each in watched.named("certificate_in_use")] == [29, 59]
        await asyncio.sleep(5 * LOOK)
        assert len(watched.told) == 1 and not watched.named("certificate_kept")


async def test_a_broken_one_is_told_once(authority: Authority) -> None:
    pair = authority.issue("server")
    good = pair.certificate.read_bytes()
    with watching(pair.files) as watched:
        before = watched.keeper.identity
        pair.certificate.write_bytes(b"half of")
        await eventually(lambda: watched.named("certificate_kept"))
        await asyncio.sleep(5 * LOOK)
        (told,) = watched.named("certificate_kept")
        assert told["setting"] == "tls.certificate" and "holds no certificate" in told["error"]
        pair.certificate.unlink()
        await eventually(lambda: len(watched.named("certificate_kept")) == 2)
        assert watched.keeper.identity is before and not watched.told
        pair.certificate.write_bytes(good)
        pair.replace(authority.issue("next"))
        await eventually(lambda: watched.told)


async def test_other_files(authority: Authority) -> None:
    one, other = authority.issue("one"), authority.issue("other")
    with watching(one.files) as watched:
        watched.keeper.configure(one.files)
        assert not watched.told
        watched.keeper.configure(other.files)
        assert len(watched.told) == 1
        watched.keeper.configure(replace(other.files, client_ca=str(authority.file)))
        assert watched.told[-1].client_ca == authority.file.read_bytes()


@pytest.mark.parametrize(
    ("since", "days", "said"),
    [(-1, 30, []), (-1, 5, ["certificate_expires_soon"]), (-9, -2, ["certificate_expired"]),
     (1, 30, ["certificate_not_valid_yet"])],
)  # fmt: skip
async def test_what_somebody_has_to_do(authority: Authority, since: float, days: float, said: list[str]) -> None:
    with watching(authority.issue(since=since, days=days).files) as watched:
        found = watched.named("certificate_expires_soon", "certificate_expired", "certificate_not_valid_yet")
        assert [(each["event"], each["log_level"]) for each in found] == [(each, "warning") for each in said]


async def test_a_key_that_everybody_can_read(authority: Authority) -> None:
    pair = authority.issue()
    pair.key.chmod(0o644)
    with watching(pair.files) as watched:
        assert [each["file"] for each in watched.named("key_readable_by_others")] == [str(pair.key)]


def test_no_certificate_at_all(authority: Authority) -> None:
    with pytest.raises(IdentityError):
        Keeper(Files("/nowhere", "/nowhere"), lambda identity: None)
