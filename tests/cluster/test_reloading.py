from __future__ import annotations

from typing import Any

import pytest
from structlog.testing import capture_logs

from cluster import logs
from cluster.config import Config, ConfigError, Problem, load
from cluster.reloading import Reloaded, Reloader


@pytest.fixture
def configured(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What logging was told."""
    calls: list[dict[str, Any]] = []
    monkeypatch.setattr(logs, "configure", lambda **settings: calls.append(settings))
    return calls


def settings(*overrides: str) -> Config:
    return load(None, overrides, {})


def test_what_changed_is_in_force(configured: list[dict[str, Any]]) -> None:
    reloader = Reloader(settings(), lambda: settings("log.level=debug", "hls.window=30", "rtmp.listen=127.0.0.1:1"))
    with capture_logs() as events:
        assert reloader.reload() == Reloaded(changed=("hls.window", "log.level"), needs_restart=("rtmp.listen",))
        assert configured == [{"level": "debug", "format": "text", "file": None}]
        assert (reloader.config.hls.window, reloader.config.rtmp.listen) == (30, Config().rtmp.listen)
        # Once more: only what still waits is told.
        assert reloader.reload() == Reloaded(needs_restart=("rtmp.listen",))
    assert len(configured) == 1
    assert [(each["event"], each["changed"], each["needs_restart"]) for each in events] == [
        ("reloaded", "hls.window, log.level", "rtmp.listen"), ("reloaded", "nothing", "rtmp.listen"),
    ]  # fmt: skip


def test_mistakes_change_nothing(configured: list[dict[str, Any]]) -> None:
    def read() -> Config:
        raise ConfigError([Problem("node.toml:3", "hls.window", "wrong"), Problem("--set", "x", "no such key")])

    before = settings()
    reloader = Reloader(before, read)
    with capture_logs() as events:
        done = reloader.reload()
    assert done == Reloaded(problems=("node.toml:3: hls.window: wrong", "--set: x: no such key"))
    assert reloader.config is before and configured == []
    assert [(each["event"], each["problem"]) for each in events] == [
        ("reload_refused", "node.toml:3: hls.window: wrong"), ("reload_refused", "--set: x: no such key"),
    ]  # fmt: skip


def test_nothing_to_read() -> None:
    with capture_logs() as events:
        done = Reloader(settings(), None).reload()
    assert len(done.problems) == 1 and not done.changed
    assert events[0]["event"] == "reload_ignored"
