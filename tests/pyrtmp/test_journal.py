"""``pyrtmp.journal``: events as log lines, and calls that must not hurt the caller."""

from __future__ import annotations

import logging
from functools import partial
from typing import Any

import pytest

from pyrtmp.journal import Journal, LoggingJournal, protected


@pytest.mark.parametrize("level", ["debug", "info", "warning", "error"])
def test_an_event_is_one_line_of_its_level_from_where_it_was_written(
    level: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "pyrtmp")
    getattr(LoggingJournal(), level)("publish", conn="ab12", frames=3)
    (record,) = caplog.records
    assert (record.name, record.levelname.lower()) == ("pyrtmp", level)
    assert record.getMessage() == "publish conn='ab12' frames=3"
    assert record.filename == "test_journal.py"


def test_an_event_without_facts_is_its_name(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "pyrtmp")
    LoggingJournal().info("draining")
    assert caplog.messages == ["draining"]


def test_what_a_peer_sent_cannot_forge_a_line(caplog: pytest.LogCaptureFixture) -> None:
    hostile = "x\r\nERROR forged\x1b[2J\u202e\u2028\ud800%s"
    LoggingJournal().warning("refused", name=hostile)
    (message,) = caplog.messages
    assert message == "refused name='x\\r\\nERROR forged\\x1b[2J\\u202e\\u2028\\ud800%s'"
    assert message.isprintable()


def test_facts_of_a_level_nobody_reads_are_not_formatted(caplog: pytest.LogCaptureFixture) -> None:
    class Costly:
        def __repr__(self) -> str:
            raise AssertionError("formatted")

    caplog.set_level(logging.INFO, "pyrtmp")
    LoggingJournal().debug("detail", fact=Costly())
    assert not caplog.records


def test_another_logger(caplog: pytest.LogCaptureFixture) -> None:
    journal: Journal = LoggingJournal(logging.getLogger("embedder"))
    journal.error("failed")
    assert [record.name for record in caplog.records] == ["embedder"]


class _Errors:
    def __init__(self) -> None:
        self.written: list[tuple[str, dict[str, Any]]] = []

    def debug(self, event: str, **facts: Any) -> None:
        raise AssertionError(event)

    info = warning = debug

    def error(self, event: str, **facts: Any) -> None:
        self.written.append((event, facts))


def test_a_protected_call_gets_its_arguments_and_says_that_it_came_back() -> None:
    got: list[int] = []
    assert protected(_Errors(), "live/cam", got.append, 3)
    assert got == [3]


def test_a_protected_call_ends_an_exception_and_writes_it_down() -> None:
    journal = _Errors()
    assert not protected(journal, "live/cam", [].remove, 3)
    assert journal.written == [
        (
            "callback_failed",
            {"subject": "live/cam", "callback": "list.remove", "error": "ValueError('list.remove(x): x not in list')"},
        )
    ]


def test_a_protected_call_of_something_without_a_name() -> None:
    journal = _Errors()
    assert not protected(journal, "live/cam", partial(int, "x"))
    assert "partial" in journal.written[0][1]["callback"]


def test_what_is_no_error_passes() -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        protected(_Errors(), "live/cam", interrupt)
