"""What the documents name exists: settings, commands, metrics, alerts, lines of the log, paths of the API, files."""

from __future__ import annotations

import ast
import re
import shlex
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from cluster.cli import make_parser
from cluster.cli_reference import commands, reference
from cluster.config import options
from cluster.metrics_reference import reference as metrics_reference
from cluster.openapi import OPERATIONS

ROOT = Path(__file__).parents[2]
CONFIG = ROOT / "config"
DOCUMENTS = [ROOT / "README.md", *(CONFIG / name for name in ("README.md", "OPERATING.md", "COMING-FROM.md"))]

SECTIONS = {each.section for each in options().values()}
COMMANDS = {" ".join(words[1:]): command for words, command in commands(make_parser())}
METRICS = set(re.findall(r"(?m)^\| `(\w+)` ", metrics_reference()))
ALERTS = set(re.findall(r"(?m)- alert: (\w+)$", (CONFIG / "alerts.yml").read_text()))
FILES = {path.name for path in CONFIG.iterdir()}
PATHS = {re.sub(r"\{(\w+)\}", lambda found: found[1].upper(), each.path) for each in OPERATIONS}

_TOML = re.compile(r"^```toml\n(.*?)^```", re.MULTILINE | re.DOTALL)


def events() -> set[str]:
    """What the packages log: the first word that is given to a logger."""
    found = set()
    for package in ("pyrtmp", "hls", "cluster"):
        for path in (ROOT / package).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
                    if node.func.attr in ("debug", "info", "warning", "error", "log"):
                        found |= {a.value for a in node.args[:2] if isinstance(a, ast.Constant) and a.value}
    return {each for each in found if isinstance(each, str)}


EVENTS = events()


def spans(path: Path) -> list[str]:
    """What stands in backticks, on one line or over its end."""
    text = re.sub(r"^```.*?^```", "", path.read_text(), flags=re.MULTILINE | re.DOTALL)
    return [" ".join(each.split()) for each in re.findall(r"`([^`]+)`", text)]


def wrong(span: str) -> Iterator[str]:
    """What of it looks like something of ours, and is not."""
    found = re.match(r"([a-z]+)\.([a-z_]+)(?: = .*)?$", span)
    if found and found[1] in SECTIONS and f"{found[1]}.{found[2]}" not in {*options(), *FILES}:
        yield f"the setting {found[1]}.{found[2]}"
    if (found := re.fullmatch(r"\[([a-z]+)\]", span)) and found[1] not in SECTIONS:
        yield f"the section {span}"
    for variable in re.findall(r"\bPYRTMP_([A-Z_]+)", span):
        if variable.lower().replace("__", ".") not in {*options(), "section.key"}:
            yield f"the variable PYRTMP_{variable}"
    if span.startswith(("pyrtmp ", ".venv/bin/pyrtmp ")):
        yield from wrong_command(shlex.split(span)[1:])
    for metric in re.findall(r"\b(?:pyrtmp|process)_[a-z_]+", span):
        if metric not in METRICS:
            yield f"the metric {metric}"
    path = re.match(r"(?:(?:GET|POST|DELETE) )?(/(?:api/v1/.*|metrics|healthz|readyz))$", span.partition("?")[0])
    if path and path[1] not in {*PATHS, "/api/v1/…"}:
        yield f"the path {path[1]}"


def wrong_command(words: list[str]) -> Iterator[str]:
    """``words`` as they stand behind ``pyrtmp``."""
    name = " ".join(words[:2]) if " ".join(words[:2]) in COMMANDS else words[0]
    if name not in COMMANDS:
        if name != "COMMAND":
            yield f"the command pyrtmp {name}"
        return
    known = COMMANDS[name]._option_string_actions
    yield from (f"the option {word} of pyrtmp {name}" for word in words if word.startswith("--") and word not in known)


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_what_is_named_exists(path: Path) -> None:
    found = [f"{each} in `{span}`" for span in spans(path) for each in wrong(span)]
    assert found == []
    for line in re.findall(r"(?m)^(?:\.venv/bin/)?pyrtmp .*$", path.read_text()):
        words = shlex.split(re.split(r"\s{2,}|>", line)[0])[1:]
        assert list(wrong_command(words)) == [], line
    for target in re.findall(r"\]\(([\w./-]+?)(?:#[\w-]+)?\)", path.read_text()):
        assert (path.parent / target).exists(), target


def test_what_is_wrong_is_found() -> None:
    for span in ("hls.fragment", "pyrtmp kick ID", "GET /api/v1/streams/APP/NAME", "pyrtmp_viewers", "[hls]"):
        assert list(wrong(span)) == []
    for span in (
        "hls.fragments", "[hlss]", "PYRTMP_RTMP__LISTENS=1", "pyrtmp kill", "pyrtmp status --yaml", "pyrtmp_viewer",
        "/api/v1/stream", "GET /api/v1/raw",
    ):  # fmt: skip
        assert len(list(wrong(span))) == 1, span


def test_the_operators_guide_names_alerts_and_lines_that_exist() -> None:
    """Whatever stands in backticks there is known to be something."""
    others = {
        "busy", "expired", "tls", "changes", "reason", "waiting",  # words in metrics and answers
        "LimitNOFILE", "MemoryMax", "WatchdogSec", "--set", "dmesg", "vmstat 1", "journalctl -u pyrtmp",
        "systemctl reload pyrtmp", "systemctl restart pyrtmp", "systemctl stop", "make setup", "make bench",
        "benchmarks/README.md", "/opt/pyrtmp", "/dev/shm", '"allow"', "StateDirectory", "/var/lib/pyrtmp",
    }  # fmt: skip
    unknown = set()
    for span in spans(CONFIG / "OPERATING.md"):
        is_ours = (
            span in options()
            or span in METRICS
            or span in ALERTS
            or span in EVENTS
            or span in PATHS
            or re.fullmatch(r"\[[a-z]+\]", span)
            or span.startswith("pyrtmp ")
        )
        if not is_ours and span not in others:
            unknown.add(span)
    assert unknown == set()


def test_the_operators_guide_knows_every_alert() -> None:
    assert set(spans(CONFIG / "OPERATING.md")) >= ALERTS


def test_every_command_is_in_the_readme() -> None:
    text = (ROOT / "README.md").read_text()
    for name in COMMANDS:
        assert re.search(rf"\bpyrtmp {name}\b", text), name


def test_the_list_of_commands_is_what_the_command_line_says() -> None:
    assert (CONFIG / "COMMANDS.md").read_text() == reference(), "run: make reference"
    for name, command in COMMANDS.items():
        part = reference().split(f"\n## pyrtmp {name}\n")[1].split("\n## ")[0]
        for option in command._option_string_actions:
            assert option in ("-h", "--help") or f"| `{option}" in part, (name, option)


def test_settings_in_the_examples_exist() -> None:
    for path in DOCUMENTS:
        for block in _TOML.findall(path.read_text()):
            if re.search(r" {5,}\[", block):  # two files side by side
                continue
            for section, table in tomllib.loads(block).items():
                for key in table:
                    assert f"{section}.{key}" in options(), (path.name, section, key)
