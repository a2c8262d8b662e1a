from __future__ import annotations

import io
import json
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from cluster import cli
from cluster.access.keys import hash_key
from cluster.access.signed import sign
from cluster.config import load

HERE = [
    "--set", "rtmp.listen=127.0.0.1:0", "--set", "http.listen=127.0.0.1:0", "--set", "api.listen=127.0.0.1:0",
    "--set", "node.workers=0",
]  # fmt: skip


def pyrtmp(*arguments: object, timeout: float = 30) -> tuple[int, str, str]:
    """Run the command by itself: its exit code, output and complaints."""
    done = subprocess.run(
        [sys.executable, "-m", "cluster.cli", *map(str, arguments)], capture_output=True, text=True, timeout=timeout
    )
    return done.returncode, done.stdout, done.stderr


class Running:
    """``pyrtmp serve`` on free ports."""

    def __init__(self, *arguments: object) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "cluster.cli", "serve", *HERE, *map(str, arguments)],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        self.output: list[str] = []
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.output.append(line)
            if line.strip().startswith("API"):
                break
        text = "".join(self.output)
        self.rtmp = self._find(r"(rtmp://\S+)/live", text)
        self.http = self._find(r"Watch +(http://\S+)/", text)
        self.api = self._find(r"API +(http://[^/\s]+)", text)

    def _find(self, pattern: str, text: str) -> str:
        match = re.search(pattern, text)
        assert match is not None, (text, self.process.poll())
        return match[1]

    def end(self, number: signal.Signals) -> tuple[int, str]:
        """Send a signal: exit code and log."""
        self.process.send_signal(number)
        _, log = self.process.communicate(timeout=15)
        return self.process.returncode, log


@pytest.fixture(scope="module")
def running() -> Iterator[Running]:
    node = Running()
    yield node
    code, log = node.end(signal.SIGTERM)
    assert code == 0, log
    assert "draining" in log and "ended" in log and "Traceback" not in log


def test_help_is_quick() -> None:
    """Nothing heavy is imported for it."""
    code = "import sys; sys.argv = ['pyrtmp', '--help']\nfrom cluster.cli import main\ntry: main()\n"
    code += "except SystemExit: pass\n"
    code += "print(sorted({'aiohttp', 'av', 'pydantic', 'asyncio', 'structlog'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=20, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
    for command in (
        "serve", "check", "publish", "probe", "status", "streams", "kick", "reload", "restart", "secret", "version",
        "explain", "top",
    ):  # fmt: skip
        assert command in done.stdout


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ([], "the following arguments are required: COMMAND"),
        (["fly"], "invalid choice: 'fly'"),
        (["serve", "--set", "hls.window=ten"], "--set: hls.window: should be a valid number, not \"ten\""),
        (["serve", "--set", "hls.windw=10"], "did you mean hls.window?"),
        (["serve", "--set", "nonsense"], "should be section.key=value"),
        (["serve", "--config", "/nowhere/node.toml"], "/nowhere/node.toml: cannot be read: No such file or directory"),
        (["check"], "the following arguments are required: FILE"),
        (["probe", "rtmp://host/a/b", "--seconds", "0"], "should be a number of seconds"),
        (["probe", "rtmp://host/a/b", "--seconds", "x"], "should be a number of seconds"),
        (["probe", "host/app/name"], "neither an rtmp:// URL nor an http:// URL"),
        (["status", "--set", "api.listen=here"], "--set: api.listen: should be host:port"),
    ],
)
def test_wrong_usage(arguments: list[str], complaint: str, capsys: pytest.CaptureFixture[str]) -> None:
    try:
        code = cli.main(arguments)
    except SystemExit as exit:  # argparse
        code = int(str(exit.code))
    out, err = capsys.readouterr()
    assert code == 2 and out == ""
    assert complaint in err and "Traceback" not in err


def test_publish_names_a_wrong_url(clip: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["publish", str(clip), "rtmp://host/only-app"]) == 2
    assert "does not name an application and a stream" in capsys.readouterr().err


def test_check(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "node.toml"
    path.write_text("[hls]\nwindow = 30.0\n")
    assert cli.main(["check", str(path)]) == 0
    assert capsys.readouterr().out == f"{path} is fine.\n"
    path.write_text("[hls]\nwindow = -1\n\n[rtpm]\nlisten = 5\n")
    assert cli.main(["check", str(path)]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert f"pyrtmp: {path}:2: hls.window: " in err and f"{path}:5: rtpm.listen: no such key" in err


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["version"]) == 0
    assert re.fullmatch(r"pyrtmp \d+\.\d+\.\d+\n", capsys.readouterr().out)


def test_a_port_in_use_fails_with_a_sentence() -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        address = f"127.0.0.1:{other.getsockname()[1]}"
        code, out, err = pyrtmp("serve", *HERE, "--set", f"http.listen={address}")
    assert (code, out) == (1, "")
    assert f"pyrtmp: http.listen = {address} cannot be opened: another program listens there" in err
    assert "Traceback" not in err


def test_nobody_there(clip: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, complaint in (
        (["status", "--api", "http://127.0.0.1:1"], "no node answers at http://127.0.0.1:1: Connection refused"),
        (["streams", "--set", "api.listen=127.0.0.1:1"], "no node answers at http://127.0.0.1:1"),
        (["kick", "x", "--api", "nonsense"], "unknown url type"),
        (["top", "--api", "nonsense"], "unknown url type"),
        (["explain", "live/x", "--api", "http://127.0.0.1:1"], "no node answers at http://127.0.0.1:1"),
        (["probe", "rtmp://127.0.0.1:1/live/x"], "rtmp://127.0.0.1:1/live/x: Connection refused"),
        (["publish", str(clip), "rtmp://127.0.0.1:1/live/x"], "rtmp://127.0.0.1:1/live/x: Connection refused"),
        (["publish", "/nowhere.mp4", "rtmp://127.0.0.1:1/live/x"], "/nowhere.mp4 cannot be read: No such file"),
    ):
        assert cli.main(arguments) == 1
        out, err = capsys.readouterr()
        assert out == "" and complaint in err and "Traceback" not in err


def test_ctrl_c_is_not_lost_while_it_starts() -> None:
    """Python ignores exceptions in finalizers, of which some run while modules are imported."""
    code = """
import os, signal
from cluster import cli

class Finalized:
    def __del__(self):
        os.kill(os.getpid(), signal.SIGINT)

def load(*arguments):
    Finalized()

cli._load = load
cli.main(["serve"])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30)
    assert (done.returncode, done.stderr) == (-signal.SIGINT, "")


def test_a_running_node(running: Running, clip: Path, capsys: pytest.CaptureFixture[str]) -> None:
    url = f"{running.rtmp}/live/cam"
    publishing = subprocess.Popen(
        [sys.executable, "-m", "cluster.cli", "publish", str(clip), url, "--loop"], stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert publishing.stdout is not None
    assert publishing.stdout.readline() == f"Publishing {clip} to {url}\n"

    assert cli.main(["probe", url, "--seconds", "1.2", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["video"]["width"] == 640 and report["audio"]["codec"] == "aac"

    assert cli.main(["status", "--api", running.api]) == 0
    text = capsys.readouterr().out
    assert "1 live" in text and "ready" in text
    assert cli.main(["streams", "--api", running.api]) == 0
    heading, row = capsys.readouterr().out.splitlines()
    assert heading.startswith("STREAM") and row.startswith("live/cam") and "H264 640x360" in row
    assert cli.main(["streams", "--api", running.api, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["streams"][0]["id"] == "live/cam"
    assert cli.main(["explain", "live/cam", "--api", running.api]) == 0
    assert "H264 640x360, AAC" in capsys.readouterr().out
    assert cli.main(["explain", "/live/cam", "--api", running.api, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["explain"]["publisher"]["stream"] == "live/cam"
    for wrong in ("cam", "live/\udcff", "live/a&stream=live/b"):
        assert cli.main(["explain", wrong, "--api", running.api]) == 1
        assert capsys.readouterr().err.startswith("pyrtmp: stream: ")
    assert cli.main(["top", "--once", "--api", running.api]) == 0
    assert capsys.readouterr().out.splitlines()[-1].startswith("live/cam")

    assert cli.main(["record", "live/cam", "--api", running.api]) == 1
    assert capsys.readouterr().err == "pyrtmp: there is no place for files; set record.directory\n"
    assert cli.main(["record", "live/cam", "--stop", "--api", running.api]) == 0
    assert capsys.readouterr().out == "live/cam is no longer recorded.\n"

    assert cli.main(["kick", "live/cam", "--api", running.api]) == 0
    assert capsys.readouterr().out == "Kicked live/cam.\n"
    _, err = publishing.communicate(timeout=10)
    assert publishing.returncode == 1
    assert url in err and "Traceback" not in err
    assert cli.main(["kick", "live/cam", "--api", running.api]) == 1
    assert "no such stream" in capsys.readouterr().err
    assert cli.main(["streams", "--api", running.api]) == 0
    assert capsys.readouterr().out == "No streams.\n"


def test_reload(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "node.toml"
    path.write_text("[hls]\nwindow = 12\n")
    node = Running("--config", path)
    try:
        assert cli.main(["reload", "--api", node.api]) == 0
        assert capsys.readouterr().out == "The settings are the same as before.\n"
        path.write_text("[log]\nlevel = 'debug'\n[node]\nid = 'other'\n")
        assert cli.main(["reload", "--api", node.api]) == 0
        assert capsys.readouterr().out == (
            "Changed: log.level.\nNot changed until the node is stopped and started again: node.id.\n"
        )
        assert cli.main(["reload", "--api", node.api, "--json"]) == 0
        answer = json.loads(capsys.readouterr().out)
        assert (answer["changed"], answer["needs_restart"]) == ([], ["node.id"])
        path.write_text("[log]\nlevel = 1\n[hls]\nwindow = 'x'\n")
        assert cli.main(["reload", "--api", node.api]) == 2
        out, err = capsys.readouterr()
        assert out == "" and err.count("\n") == 2
        assert f"pyrtmp: {path}:2: log.level: should be 'debug'" in err and f"pyrtmp: {path}:4: hls.window: " in err
    finally:
        _, log = node.end(signal.SIGTERM)
    assert "reload_refused" in log and "Traceback" not in log


def test_all_processes_log_to_a_file_that_may_be_moved_away(tmp_path: Path) -> None:
    file, moved = tmp_path / "node.log", tmp_path / "node.log.1"
    node = Running("--set", f"log.file={file}", "--set", "node.workers=2")
    try:
        file.rename(moved)
        assert cli.main(["reload", "--api", node.api]) == 0
    finally:
        code, log = node.end(signal.SIGTERM)
    assert (code, log) == (0, "")
    before, after = moved.read_text(), file.read_text()
    assert "worker_ready" in before and "reloaded" in after
    # What workers say when they end, each its own line.
    assert {each for each in after.split() if each.startswith("worker=")} >= {"worker=0", "worker=1"}
    assert all(re.match(r"\d{4}-\d\d-\d\dT", line) for line in after.splitlines())


def test_a_log_file_that_cannot_be_written(tmp_path: Path) -> None:
    code, out, err = pyrtmp("serve", "--set", f"log.file={tmp_path}/missing/node.log")
    assert (code, out) == (2, "")
    assert err == f"pyrtmp: log.file: {tmp_path}/missing/node.log: No such file or directory\n"


# Secrets


def test_a_stream_key(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["secret", "key", "live/cam"]) == 0
    key, obs, entry = (line.partition(":")[2].strip() for line in capsys.readouterr().out.splitlines())
    assert obs == f"cam?key={key}" and len(key) == 32
    found = load(None, ["access.rules=publish live/* key", f"access.keys={entry[1:-1]}"], {}).access.keys
    assert found == (f"publish live/cam {hash_key(key)}",)
    assert cli.main(["secret", "key", "live/*", "--actions", "play,api-read"]) == 2
    assert "its pattern is *" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("key", "complaint"),
    [
        ("a-key-that-somebody-has-already\n", ""), ("short\n", "less than 20 characters"),
        ("", "less than 20 characters"),
        ("a key with spaces & and more\n", "does not stand in a URL"),
    ],
)  # fmt: skip
def test_a_key_that_is_in_use(
    key: str, complaint: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO(key))
    assert cli.main(["secret", "key", "live/cam", "--stdin"]) == (2 if complaint else 0)
    out, err = capsys.readouterr()
    assert complaint in err and (complaint or out == f'access.keys:  "publish live/cam {hash_key(key.strip())}"\n')
    assert not key.strip() or key.strip() not in out + err


def test_secrets(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["secret", "random"]) == cli.main(["secret", "random"]) == 0
    one, other = capsys.readouterr().out.split()
    assert one != other and load(None, [f"access.signed_secret={one}", f"api.token={other}"], {}).api.secret == other
    assert cli.main(["secret"]) == 2
    assert "needs a kind" in capsys.readouterr().err


def test_a_signed_url(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "node.toml"
    path.write_text('[access]\nsigned_secret = "the-first-one-to-sign the-second-one-of-them"\n')
    arguments = ["secret", "url", "--config", str(path), "http://host/live/cam.m3u8", "--ip", "203.0.113.7"]
    before = int(time.time())
    assert cli.main([*arguments, "--seconds", "60"]) == 0
    url = capsys.readouterr().out.strip()
    match = re.fullmatch(r"http://host/live/cam\.m3u8\?expires=(\d+)&ip=203\.0\.113\.7&sign=(\S+)", url)
    assert match is not None and before + 60 <= int(match[1]) <= time.time() + 60
    assert match[2] == sign("the-first-one-to-sign", "play", "live/cam", int(match[1]), "203.0.113.7")
    assert "the-first" not in url
    for wrong, complaint in (
        (["secret", "url", "rtmp://host/live/cam"], "no access.signed_secret"),
        ([*arguments[:4], "http://host/"], "the name is empty"),
        ([*arguments[:4], "rtmp://host/live/cam", "--ip", "here"], "'here' is not an address"),
    ):
        assert cli.main(wrong) == 2
        assert complaint in capsys.readouterr().err
    for seconds in ("0", "-1", "1.5", "x", "99999999999"):
        with pytest.raises(SystemExit) as ended:
            cli.main([*arguments, "--seconds", seconds])
        assert ended.value.code == 2


def test_restart_without_workers(running: Running, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["restart", "--api", running.api]) == 1
    assert capsys.readouterr().err == "pyrtmp: this node has no workers to restart\n"


def test_what_is_not_the_api(running: Running, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["status", "--api", running.http]) == 1
    assert "is not the API of a node (HTTP 404)" in capsys.readouterr().err
    assert cli.main(["probe", f"{running.http}/"]) == 1
    assert "does not begin with the letters FLV" in capsys.readouterr().err


def test_a_reader_that_has_enough(running: Running) -> None:
    done = subprocess.run(
        f"{sys.executable} -m cluster.cli streams --json --api {running.api} | true",
        shell=True, capture_output=True, text=True, timeout=20,
    )  # fmt: skip
    assert done.stderr == ""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signals_end_it_cleanly(number: signal.Signals) -> None:
    node = Running()
    node.process.send_signal(signal.SIGHUP)
    code, log = node.end(number)
    assert code == 0, log
    assert "reloaded" in log and f"stopping reason={number.name}" in log and "Traceback" not in log
