from __future__ import annotations

import asyncio
import io
import json
import logging
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st

from cluster import logs
from cluster.logs import (
    MAX_TRACE_CHARS,
    MAX_VALUE_CHARS,
    FloodGate,
    configure,
    escape,
    render_json,
    render_text,
)

HOSTILE = "a\x1b[31mred\r\n2026-01-01 info fake=1\x00\x7f\x9b\u2028\u202e \"q\" é"


@pytest.fixture(autouse=True)
def restored_logging() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    configure()  # closes a file
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.reset_defaults()
    structlog.contextvars.clear_contextvars()


@pytest.fixture
def text() -> io.StringIO:
    stream = io.StringIO()
    configure(stream=stream)
    return stream


@pytest.fixture
def lines() -> io.StringIO:
    stream = io.StringIO()
    configure(format="json", stream=stream)
    return stream


def test_text(text: io.StringIO) -> None:
    structlog.get_logger().bind(connection=7).info("publish_started", stream="live/demo", video=None, fps=29.97)
    time, level, event, *fields = text.getvalue().split()
    assert (level, event) == ("info", "publish_started")
    assert time.endswith("Z") and time[10] == "T"
    assert fields == ["connection=7", "stream=live/demo", "video=None", "fps=29.97"]
    assert text.getvalue().endswith("\n")


def test_json(lines: io.StringIO) -> None:
    structlog.get_logger().bind(connection=7).warning("publish_refused", stream="live/demo", fps=29.97, none=None)
    event = json.loads(lines.getvalue())
    assert event.pop("time").endswith("Z")
    assert event == {
        "event": "publish_refused",
        "level": "warning",
        "connection": 7,
        "stream": "live/demo",
        "fps": 29.97,
        "none": None,
    }


@pytest.mark.parametrize("form", ["text", "json"])
def test_level(form: str) -> None:
    stream = io.StringIO()
    configure(level="warning", format="json" if form == "json" else "text", stream=stream)
    structlog.get_logger().info("quiet")
    logging.getLogger("pyrtmp").info("quiet")
    assert stream.getvalue() == ""
    structlog.get_logger().warning("loud")
    logging.getLogger("pyrtmp").error("louder")
    assert len(stream.getvalue().splitlines()) == 2


def test_configured_twice_writes_once(text: io.StringIO) -> None:
    again = io.StringIO()
    configure(stream=again)
    structlog.get_logger().info("x")
    assert text.getvalue() == ""
    assert len(again.getvalue().splitlines()) == 1


async def test_connection_id_of_a_task(lines: io.StringIO) -> None:
    async def connection(number: int) -> None:
        structlog.contextvars.bind_contextvars(connection=number)
        await asyncio.sleep(0)
        structlog.get_logger().info("one")
        logging.getLogger("pyrtmp.aio").info("two", extra={"stream": "live/demo"})

    await asyncio.gather(connection(1), connection(2))
    events = [json.loads(line) for line in lines.getvalue().splitlines()]
    assert [(each["event"], each["connection"]) for each in events] == [("one", 1), ("two", 1), ("one", 2), ("two", 2)]
    assert events[1]["stream"] == "live/demo"


# Hostile bytes


def raw(output: str) -> set[str]:
    return {each for each in output if not each.isprintable()}


@pytest.mark.parametrize("form", ["text", "json"])
def test_hostile_text_is_one_line_and_prints(form: str) -> None:
    stream = io.StringIO()
    configure(format="json" if form == "json" else "text", stream=stream)
    log = structlog.get_logger()
    log.info("refused", name=HOSTILE, raw=HOSTILE.encode("utf-8", "replace") + b"\xff\xfe", **{"key\n\x1b": 1})
    log.info(HOSTILE)
    logging.getLogger("aiohttp").error("bad request %s", HOSTILE)
    assert len(stream.getvalue().split("\n")) == 4
    assert raw(stream.getvalue()) == {"\n"}


def test_json_keeps_what_was_sent(lines: io.StringIO) -> None:
    structlog.get_logger().info("refused", name=HOSTILE)
    assert json.loads(lines.getvalue())["name"] == HOSTILE


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("plain", "plain"),
        ("", '""'),
        ("two words", '"two words"'),
        ("a=b", '"a=b"'),
        ('say "x"', '"say \\"x\\""'),
        ("back\\slash", "back\\\\slash"),
        ("\x1b[0m", "\\x1b[0m"),
        ("\n", "\\n"),
        ("\u2028", "\\u2028"),
        ("é", "é"),
        (b"\x00\xff", "\\x00\\\\xff"),
        (bytearray(b"live"), "live"),
        (memoryview(b"live"), "live"),
        (["a", "\n"], "\"['a', '\\\\n']\""),
    ],
)
def test_fields_as_text(text: io.StringIO, value: object, shown: str) -> None:
    structlog.get_logger().info("x", field=value)
    assert text.getvalue().partition(" x field=")[2] == shown + "\n"


@given(st.text())
def test_escape_is_printable_and_loses_nothing(value: str) -> None:
    escaped = escape(value)
    assert escaped.isprintable()
    assert escaped.encode("latin-1", "backslashreplace").decode("unicode_escape") == value


def test_what_is_not_even_text_is_escaped() -> None:
    # Not by way of logging: pytest keeps the records, and cannot send a lone surrogate from process to process.
    event = {"time": "t", "level": "info", "event": "x", "name": "\udcff"}
    assert render_text(None, "info", dict(event)) == "t info    x name=\\udcff"
    assert render_json(None, "info", dict(event)).isascii()


def test_long_values_are_cut(text: io.StringIO) -> None:
    structlog.get_logger().info("x", name="n" * 10_000, payload=bytes(1_000_000))
    assert len(text.getvalue()) < 5 * MAX_VALUE_CHARS + 200
    assert "n" * MAX_VALUE_CHARS + "... " in text.getvalue()


@pytest.mark.parametrize("form", ["text", "json"])
def test_exception_is_one_line_and_keeps_its_end(form: str) -> None:
    stream = io.StringIO()
    configure(format="json" if form == "json" else "text", stream=stream)
    for log in (structlog.get_logger().exception, logging.getLogger("asyncio").exception):
        try:
            raise ValueError(f"{'x' * 2 * MAX_TRACE_CHARS}\x1b the end")
        except ValueError:
            log("task_failed")
    first, second = stream.getvalue().splitlines()
    for line in (first, second):
        assert "the end" in line and "exception" in line and "exc_info" not in line
        assert len(line) < MAX_TRACE_CHARS + 500
        assert raw(line) == set()


# Floods


def test_a_source_gets_its_share_and_then_is_counted() -> None:
    gate = FloodGate(seconds=10, per_source=2, per_event=100)
    assert [gate.admit("refused", "10.0.0.1", now) for now in (0, 1, 2, 9.9)] == [0, 0, None, None]
    assert gate.admit("refused", "10.0.0.2", 3) == 0  # another source
    assert gate.admit("timed_out", "10.0.0.1", 3) == 0  # another event
    assert [gate.admit("refused", "10.0.0.1", now) for now in (10, 10, 10)] == [2, 0, None]
    assert gate.admit("refused", "10.0.0.1", 1000) == 1


def test_a_flood_from_many_sources_is_bounded_in_lines_and_memory() -> None:
    gate = FloodGate(seconds=10, per_source=5, per_event=50, max_sources=100)
    written = [gate.admit("refused", f"10.{i % 200}.{i // 200}.1", i / 1000) for i in range(10_000)]
    assert sum(each is not None for each in written) == 50
    assert len(gate._sources) == 100
    assert gate.admit("refused", "192.0.2.1", 20) == 9_950 - sum(each.suppressed for each in gate._sources.values())
    assert gate.admit("timed_out", "192.0.2.1", 20) == 0


def test_who_goes_on_is_not_forgotten() -> None:
    gate = FloodGate(seconds=10, per_source=1, max_sources=2)
    assert gate.admit("refused", "10.0.0.1", 0) == 0
    for i in range(2, 20):
        assert gate.admit("refused", f"10.0.0.{i}", 0) == 0
        assert gate.admit("refused", "10.0.0.1", 0) is None


def test_every_suppressed_line_is_told_once() -> None:
    gate = FloodGate(seconds=10, per_source=1, per_event=3, max_sources=5)
    told = written = 0
    for i in range(1000):
        suppressed = gate.admit("ab"[i % 2], f"10.0.0.{i * 7 % 13}", i / 10)
        written += suppressed is not None
        told += suppressed or 0
    told += sum(gate.take_suppressed().values())
    assert written + told == 1000
    assert gate.take_suppressed() == {}


def test_an_ipv6_network_is_one_source() -> None:
    gate = FloodGate(per_source=1)
    assert gate.admit("refused", "2001:db8::1", 0) == 0
    assert gate.admit("refused", "2001:db8::ffff:2", 0) is None
    assert gate.admit("refused", "2001:db8:0:1::1", 0) == 0
    assert gate.admit("refused", "::ffff:10.0.0.1", 0) == 0
    assert gate.admit("refused", "10.0.0.1", 0) is None
    assert gate.admit("refused", "fe80::1%eth0", 0) == 0
    assert gate.admit("refused", "no:address", 0) == 0
    assert gate.admit("refused", "no:address", 0) is None


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time, to be changed, of a new gate that lets one line of an address through in ten seconds."""
    now = [1000.0]
    monkeypatch.setattr(logs, "_gate", FloodGate(seconds=10, per_source=1))
    monkeypatch.setattr(logs, "_told", 0.0)
    monkeypatch.setattr(logs, "monotonic", lambda: now[0])
    return now


def test_repeated_warnings_about_a_peer(text: io.StringIO, clock: list[float]) -> None:
    log = structlog.get_logger().bind(connection=7)
    for clock[0] in (1000.0, 1001.0, 1002.0, 1010.0):
        log.warning("refused", address="10.0.0.1", reason="handshake")
    tails = [line.partition("refused ")[2] for line in text.getvalue().splitlines()]
    assert tails == [
        "connection=7 address=10.0.0.1 reason=handshake",
        "connection=7 address=10.0.0.1 reason=handshake suppressed=2",
    ]


def test_what_no_peer_can_repeat_at_will_is_always_written(text: io.StringIO, clock: list[float]) -> None:
    log = structlog.get_logger()
    for _ in range(3):
        log.info("play", address="10.0.0.1")
        log.error("internal_error", address="10.0.0.1")
        log.warning("registry_away")
    assert len(text.getvalue().splitlines()) == 9


def test_the_end_of_a_flood_is_told(text: io.StringIO, clock: list[float]) -> None:
    logs.tell_suppressed(1000.0)
    for _ in range(5):
        structlog.get_logger().warning("refused", address="10.0.0.1")
    logs.tell_suppressed(1009.0)
    assert len(text.getvalue().splitlines()) == 1
    logs.tell_suppressed(1010.0)
    logs.tell_suppressed(1020.0)
    assert text.getvalue().splitlines()[1:] == [
        line for line in text.getvalue().splitlines() if line.endswith("lines_suppressed of=refused lines=4")
    ]
    assert len(text.getvalue().splitlines()) == 2


def test_a_file_that_logrotate_moves_away(tmp_path: Path) -> None:
    file = tmp_path / "node.log"
    configure(file=str(file))
    log = structlog.get_logger()
    log.info("one", name=HOSTILE)
    log.info("two")
    file.rename(tmp_path / "node.log.1")
    log.info("three")
    log.info("four")
    words = [[line.split()[2] for line in path.read_text().splitlines()] for path in (tmp_path / "node.log.1", file)]
    assert words == [["one", "two"], ["three", "four"]]


def test_without_its_file_the_log_goes_to_standard_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "log"
    folder.mkdir()
    configure(file=str(folder / "node.log"))
    structlog.get_logger().info("one")
    shutil.rmtree(folder)
    structlog.get_logger().info("two")
    structlog.get_logger().info("three")
    assert [line.split()[2] for line in capsys.readouterr().err.splitlines()] == ["two", "three"]
    folder.mkdir()
    structlog.get_logger().info("four")
    assert (folder / "node.log").read_text().split()[2] == "four"


def test_a_flood_costs_less_than_a_mebibyte_a_minute(text: io.StringIO, clock: list[float]) -> None:
    logs._gate = FloodGate()
    log = structlog.get_logger()
    for i in range(60_000):
        clock[0] = 1000 + i / 1000
        log.warning("refused", address=f"10.0.{i % 250}.1", name="\x00" * 10_000)
    assert 0 < len(text.getvalue()) < 1024 * 1024
