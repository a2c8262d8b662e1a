from __future__ import annotations

import dataclasses
import json
import os
import pickle
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from cluster.config import (
    BOUNDS,
    RESTART,
    Address,
    Config,
    ConfigError,
    Origin,
    Problem,
    compare,
    example,
    load,
    loading,
    options,
    reference,
    sources,
)
from pyrtmp.settings import Limits
from tests.cluster.tls.authority import Authority

ROOT = Path(__file__).parents[2]


def write(directory: Path, text: str) -> Path:
    path = directory / "node.toml"
    path.write_text(text)
    return path


def problems(
    path: Path | None = None, overrides: tuple[str, ...] = (), environ: dict[str, str] | None = None
) -> list[Problem]:
    with pytest.raises(ConfigError) as caught:
        load(path, overrides, environ or {})
    assert str(caught.value) == "\n".join(map(str, caught.value.problems))
    return caught.value.problems


# Where values come from


def test_defaults() -> None:
    node = load(None, [], {})
    assert node == Config()
    assert str(node.rtmp.listen) == "0.0.0.0:1935"
    assert str(node.http.listen) == "0.0.0.0:8080"
    assert str(node.api.listen) == "127.0.0.1:1985"
    assert (node.node.role, node.node.drain_seconds) == ("origin", 10.0)
    assert (node.egress.min_delay_ms, node.egress.max_delay_ms) == (0.0, 350.0)
    assert node.http.cors_origins == ("*",)
    assert node.api.token is None


@pytest.mark.parametrize(
    ("platform", "cores", "workers"), [("linux", 1, 1), ("linux", 12, 12), ("linux", 1000, 256), ("darwin", 12, 0)]
)
def test_a_worker_for_each_core(monkeypatch: pytest.MonkeyPatch, platform: str, cores: int, workers: int) -> None:
    monkeypatch.setattr(sys, "platform", platform)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(cores)))
    assert load(None, [], {}).node.workers == workers
    assert load(None, ["node.workers=3"], {}).node.workers == 3
    assert "one per core" in reference() and "# workers = 4" in example()


def test_precedence(tmp_path: Path) -> None:
    path = write(tmp_path, "[egress]\nmin_delay_ms = 1\nmax_delay_ms = 2\nshare = 0.5\n[hls]\nwindow = 30.0\n")
    environ = {"PYRTMP_EGRESS__MAX_DELAY_MS": "20", "PYRTMP_EGRESS__MIN_DELAY_MS": "10", "HOME": "/nowhere"}
    node = load(path, ["egress.min_delay_ms=7", "egress.min_delay_ms=9"], environ)
    assert node.egress.min_delay_ms == 9  # --set, the last one
    assert node.egress.max_delay_ms == 20  # environment
    assert node.egress.share == 0.5  # file
    assert node.hls.window == 30
    assert node.hls.fragment == 2.0  # default, of a section that the file has


def test_the_process_environment_is_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYRTMP_HLS__WINDOW", "99")
    assert load(None, [], {}).hls.window == 12.0


def test_every_type_from_text() -> None:
    node = load(
        None,
        ["log.level=debug", "limits.max_connections=50", "hls.container=fmp4", "http.cors_origins=https://a.org, b"],
        {"PYRTMP_HTTP__LISTEN": "[::1]:80", "PYRTMP_NODE__ID": "edge-1.paris", "PYRTMP_API__TOKEN": "s3cret"},
    )
    assert node.log.level == "debug"
    assert node.limits.max_connections == 50
    assert node.hls.container == "fmp4"
    assert node.http.cors_origins == ("https://a.org", "b")
    assert node.http.listen == Address("::1", 80)
    assert node.node.id == "edge-1.paris"
    assert node.api.token is not None and node.api.token.get_secret_value() == "s3cret"
    assert "s3cret" not in repr(node)


@pytest.mark.parametrize(
    ("text", "value"), [("a", ("a",)), ("", ()), ("[]", ()), ('["a", "b,c"]', ("a", "b,c")), ("a,b", ("a", "b"))]
)
def test_lists_from_text(text: str, value: tuple[str, ...]) -> None:
    assert load(None, [f"http.cors_origins={text}"], {}).http.cors_origins == value


@pytest.mark.parametrize(
    "text",
    [
        "[forward]\nto = ['h:9']\n[forward.apps]\nlive = ['h:1', 'rtmps://h/{app}']\n'a/b' = []",
        "[forward]\nto = ['h:9']\napps.live = ['h:1', 'rtmps://h/{app}']\napps.'a/b' = []",
        "forward = {to = ['h:9'], apps = {live = ['h:1', 'rtmps://h/{app}'], 'a/b' = []}}",
    ],
)
def test_a_table(tmp_path: Path, text: str) -> None:
    path = write(tmp_path, text)
    file = {"live": ("h:1", "rtmps://h/{app}"), "a/b": ()}
    config = load(path, [], {})
    assert (config.forward.to, config.forward.apps) == (("h:9",), file)
    # Of each application the strongest source counts.
    config = load(path, ['forward.apps={"b": ["h:2"]}'], {"PYRTMP_FORWARD__APPS": '{"live": [], "b": ["h:3"]}'})
    assert config.forward.apps == {"live": (), "a/b": (), "b": ("h:2",)}
    assert config == pickle.loads(pickle.dumps(config))  # workers get it like this


def test_a_table_that_is_none() -> None:
    (problem,) = problems(None, ("forward.apps=live",))
    assert str(problem) == '--set: forward.apps: should be a table such as {"a": ["b"]}, not "live"'


def test_whether_anything_is_passed_on() -> None:
    for setting, somewhere in (
        ("forward.to=", False), ("forward.to=h:1", True), ('forward.apps={"a": []}', False),
        ('forward.apps={"a": ["h:1"]}', True), ("forward.ask_url=https://h/x?token=1", True),
    ):  # fmt: skip
        assert load(None, [setting], {}).forward.somewhere == somewhere


@pytest.mark.parametrize(
    "url",
    ["", "h:1", "ftp://h/x", "http://", "http://:1/", "http://h:0/", "http://h:x/", "http://[::1/", "http://u:secret@h/",
     "http://h/#secret", "http://h/a b", "http://h/\n", "http://h/\xe9"],
)
def test_urls_that_cannot_be_asked(tmp_path: Path, url: str) -> None:
    (problem,) = problems(write(tmp_path, f"[forward]\nask_url = {json.dumps(url)}\n"))
    assert (problem.key, problem.source.rpartition(":")[2]) == ("forward.ask_url", "2")
    assert problem.reason.startswith("should ") and "secret" not in problem.reason


def test_byte_order_mark(tmp_path: Path) -> None:
    assert load(write(tmp_path, "\ufeff[hls]\nwindow = 20\n"), [], {}).hls.window == 20


def test_limits_serve_where_the_core_wants_its_own() -> None:
    limits = load(None, ["limits.max_amf_depth=5"], {}).limits
    assert isinstance(limits, Limits) and limits.max_amf_depth == 5


def test_environment_of_others() -> None:
    """Kubernetes and Docker set these where a service is called pyrtmp."""
    environ = {
        "PYRTMP_SERVICE_HOST": "10.0.0.1",
        "PYRTMP_SERVICE_PORT": "1935",
        "PYRTMP_SERVICE_PORT_RTMP": "1935",
        "PYRTMP_PORT": "tcp://10.0.0.1:1935",
        "PYRTMP_PORT_1935_TCP": "tcp://10.0.0.1:1935",
        "PYRTMP_PORT_1935_TCP_ADDR": "10.0.0.1",
        "MY_PYRTMP_HLS__WINDOW": "1",
    }
    assert load(None, [], environ) == Config()


# Addresses


@pytest.mark.parametrize(
    ("text", "host", "port", "loopback"),
    [
        ("0.0.0.0:1935", "0.0.0.0", 1935, False),
        ("[::]:1935", "::", 1935, False),
        ("[::1]:0", "::1", 0, True),
        ("[2001:db8::7]:65535", "2001:db8::7", 65535, False),
        ("127.8.0.1:1", "127.8.0.1", 1, True),
        ("localhost:1935", "localhost", 1935, True),
        ("media-1.example.org:1935", "media-1.example.org", 1935, False),
    ],
)
def test_address(text: str, host: str, port: int, loopback: bool) -> None:
    address = Address.parse(text)
    assert (address.host, address.port, address.is_loopback) == (host, port, loopback)
    assert str(address) == text
    assert load(None, [f"rtmp.listen={text}"], {}).rtmp.listen == address


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("1935", "should be host:port"),
        (":1935", "should be host:port"),
        ("0.0.0.0", "should be host:port"),
        ("0.0.0.0:", "should be host:port"),
        ("0.0.0.0:http", "should be host:port"),
        ("::1:1935", "in brackets"),
        ("0.0.0.0:65536", "the port should be 0 to 65535, not 65536"),
        ("256.0.0.1:1935", '"256.0.0.1" is not an IP address'),
        ("[::g]:1935", '"::g" is not an IP address'),
        ("[127.0.0.1]:1935", '"127.0.0.1" is not an IP address'),
        ("a b:1935", '"a b" is not a host name'),
        ("-a:1935", '"-a" is not a host name'),
        ("a_b:1935", '"a_b" is not a host name'),
        ("a\x1b[31m:1935", "should be host:port"),
    ],
)
def test_bad_address(text: str, reason: str) -> None:
    (problem,) = problems(None, (f"rtmp.listen={text}",))
    assert (problem.source, problem.key) == ("--set", "rtmp.listen")
    assert reason in problem.reason
    assert "\x1b" not in str(problem)


@pytest.mark.parametrize(
    ("text", "origin", "written"),
    [
        ("10.0.0.1:1935", Origin("10.0.0.1", 1935), ""),
        ("rtmp://media-1", Origin("media-1", 1935), "media-1:1935"),
        ("rtmp://[::1]:1936/", Origin("::1", 1936), "[::1]:1936"),
        ("rtmps://10.0.0.1", Origin("10.0.0.1", 1936, "rtmps"), "rtmps://10.0.0.1:1936"),
        ("http://10.0.0.1:8080", Origin("10.0.0.1", 8080, "http"), ""),
        ("http://cdn.example.org/", Origin("cdn.example.org", 80, "http"), "http://cdn.example.org:80"),
        ("https://[2001:db8::7]/a/b.c/", Origin("2001:db8::7", 443, "https", "/a/b.c"), "https://[2001:db8::7]:443/a/b.c"),
    ],
)
def test_origin(text: str, origin: Origin, written: str) -> None:
    (read,) = load(None, [f"edge.origins={text}"], {}).edge.origins
    assert read == origin and str(read) == (written or text)
    assert Origin.parse(str(read)) == read


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("10.0.0.1", "should be host:port"),
        ("10.0.0.1:0", "should be an address to connect to, not 10.0.0.1:0"),
        ("http://10.0.0.1:0", "should be an address to connect to, not 10.0.0.1:0"),
        ("http://0.0.0.0:80", "should be an address to connect to"),
        ("http://", "should be host:port"),
        ("http://10.0.0.1:x", "should be host:port"),
        ("http://::1:80", "in brackets"),
        ("http://10.0.0.1:65536", "the port should be 0 to 65535, not 65536"),
        ("ftp://10.0.0.1:80", "http[s]://host[:port][/path]"),
        ("rtmps://10.0.0.1/live", "the application is the stream's own: should be rtmps://10.0.0.1"),
        ("http://user:word@10.0.0.1:80", "without user or query"),
        ("http://10.0.0.1:80?token=x", "without user or query"),
        ("http://10.0.0.1:80/a?token=x", "without user or query"),
        ("http://10.0.0.1:80/a#b", "without user or query"),
        ("http://10.0.0.1:80/../a", "http[s]://host[:port][/path]"),
        ("http://10.0.0.1:80//a", "http[s]://host[:port][/path]"),
        ("http://10.0.0.1:80/a b", "http[s]://host[:port][/path]"),
        ("http://10.0.0.1:80/\r\nx", "http[s]://host[:port][/path]"),
        ("rtmp://10.0.0.1:1935/live", "the application is the stream's own: should be rtmp://10.0.0.1:1935"),
    ],
)
def test_bad_origin(text: str, reason: str) -> None:
    (problem,) = problems(None, (f"edge.origins={text}",))
    assert (problem.source, problem.key) == ("--set", "edge.origins")
    assert reason in problem.reason and "\n" not in str(problem)


@pytest.mark.parametrize(
    ("one", "other", "clash"),
    [
        ("0.0.0.0:80", "0.0.0.0:80", True),
        ("0.0.0.0:80", "127.0.0.1:80", True),
        ("10.0.0.1:80", "127.0.0.1:80", False),
        ("[::]:80", "[::1]:80", True),
        ("[::]:80", "0.0.0.0:80", False),
        ("0.0.0.0:80", "0.0.0.0:81", False),
        ("0.0.0.0:0", "0.0.0.0:0", False),
    ],
)
def test_clashes(one: str, other: str, clash: bool) -> None:
    assert Address.parse(one).clashes(Address.parse(other)) is clash
    assert Address.parse(other).clashes(Address.parse(one)) is clash


# Mistakes


def test_all_mistakes_at_once_each_with_its_place(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        """# a comment
listen = "0.0.0.0:1"

[node]
role = "edge"
workers = -2

[rtmp]
lisen = "0.0.0.0:1935"

[egress]
min_delay_ms = 500

[limits]
max_amf_depth = "32"
max_chunk_streams = 1

[htpp]
cors_origins = [
  "*",
]

[http]
cors_origins = [
  "https://a.org",
  1,
]
fragment = 2.0

[log]
level = "verbose"
[log.deeper]
x = 1
""",
    )
    environ = {"PYRTMP_HLS__WINDOW": "1", "PYRTMP_TIMEOUTS__HANDSHAK": "3", "PYRTMP_RTMP_LISTEN": "[::]:1935"}
    found = problems(path, ("stream.log_bytes=lots", "hls.linger", "x=1", "api.token="), environ)
    assert [(each.source.removeprefix(str(path)), each.key, each.reason) for each in found] == [
        (":2", "listen", "no such key; did you mean rtmp.listen or rtmps.listen or http.listen or https.listen or "
             "api.listen?"),
        (":6", "node.workers", "should be greater than or equal to 0, not -2"),
        (":9", "rtmp.lisen", "no such key; did you mean rtmp.listen?"),
        (":15", "limits.max_amf_depth", 'should be a valid integer, not "32"'),
        (":16", "limits.max_chunk_streams", "should be greater than or equal to 4, not 1"),
        (":19", "htpp.cors_origins", "no such key; did you mean http.cors_origins?"),
        (":24", "http.cors_origins", "should be a valid string, not 1"),
        (":28", "http.fragment", "no such key; did you mean hls.fragment?"),
        (":31", "log.level", "should be 'debug', 'info', 'warning' or 'error', not \"verbose\""),
        (":32", "log.deeper", "no such key; did you mean log.level?"),
        (
            "environment",
            "PYRTMP_RTMP_LISTEN",
            "is not PYRTMP_SECTION__KEY (two underscores); did you mean PYRTMP_RTMP__LISTEN?",
        ),
        ("environment", "timeouts.handshak", "no such key; did you mean PYRTMP_TIMEOUTS__HANDSHAKE?"),
        ("--set", "stream.log_bytes", 'should be a valid integer, not "lots"'),
        ("--set", "hls.linger", 'should be section.key=value, not "hls.linger"'),
        ("--set", "x", 'should be section.key=value, not "x=1"'),
        ("--set", "api.token", "should be one or more printable ASCII characters without spaces"),
        (":12", "egress.min_delay_ms", "egress.min_delay_ms (500.0) is more than egress.max_delay_ms (350.0)"),
        ("environment", "hls.window", "hls.fragment (2.0) is more than hls.window (1.0)"),
        (":5", "node.role",
         "an edge needs edge.origins, the nodes that have the streams, or registry.url, where it finds them"),
    ]


def test_a_mistake_behind_a_stronger_source_is_named_too(tmp_path: Path) -> None:
    path = write(tmp_path, "[hls]\nwindow = true\n")
    (problem,) = problems(path, ("hls.window=20",))
    assert str(problem) == f"{path}:2: hls.window: should be a valid number, not true"


@pytest.mark.parametrize(
    ("statement", "key", "reason"),
    [
        ("[hls]\nwindow = '12'", "hls.window", 'should be a valid number, not "12"'),
        ("[hls]\nwindow = nan", "hls.window", "should be a finite number, not NaN"),
        ("[hls]\nwindow = inf", "hls.window", "should be a finite number, not Infinity"),
        ("[hls]\nmax_bytes = 2e6", "hls.max_bytes", "should be a valid integer, not 2000000.0"),
        ("[hls]\nmax_bytes = true", "hls.max_bytes", "should be a valid integer, not true"),
        ("[hls]\nmax_bytes = -1", "hls.max_bytes", "should be greater than or equal to 1048576, not -1"),
        ("[hls]\nwindow = 2020-01-01", "hls.window", 'should be a valid number, not "2020-01-01"'),
        ("[http]\ncors_origins = '*'", "http.cors_origins", 'should be a list, not "*"'),
        ("[rtmp]\nlisten = 1935", "rtmp.listen", 'should be text such as "0.0.0.0:1935" or "[::]:1935", not 1935'),
        ("[node]\nid = ''", "node.id", 'should be 1 to 64 letters, digits, dots, underscores and hyphens, not ""'),
        ("[rtmp]\nproxy_from = '10.0.0.1'", "rtmp.proxy_from", 'should be a list, not "10.0.0.1"'),
        (
            "[rtmp]\nproxy_from = ['10.0.0.1', '10.0.0.1/8']", "rtmp.proxy_from",
            'should be an address or a network, such as 10.0.0.1 or 10.0.0.0/8, not "10.0.0.1/8": bits behind the '
            "prefix are set",
        ),
        (
            "[http]\ntrust_forwarded_from = ['nginx']", "http.trust_forwarded_from",
            'should be an address or a network, such as 10.0.0.1 or 10.0.0.0/8, not "nginx"',
        ),
        ("[forward]\napps = ['h:1']", "forward.apps", 'should be a valid dictionary, not ["h:1"]'),
        ("[forward.apps]\nlive = 'h:1'", "forward.apps", '"live": should be a list, not "h:1"'),
        ("[forward.apps]\nlive = [5]", "forward.apps", '"live": should be a valid string, not 5'),
        (
            "[forward.apps]\nlive = ['http://h/a']", "forward.apps",
            '"live": should begin with rtmp:// or rtmps://',
        ),
        (
            "[forward.apps]\n'a b' = []", "forward.apps",
            "\"a b\": the name has a character other than letters, digits, '.', '_', '-', '~'",
        ),
        ("[egress]\nshare = 0", "egress.share", "should be greater than or equal to 0.001, not 0"),
        ("rtmp = 5", "rtmp", "should be a section, [rtmp], not 5"),
        ("[[rtmp]]\nlisten = 5", "rtmp", 'should be a section, [rtmp], not [{"listen": 5}]'),
        ("[zzz]\nqqq = 1", "zzz.qqq", "no such key"),
        ("[zzz]", "zzz", "no such key"),
        ("[log.level]\nx = 1", "log.level", "should be 'debug', 'info', 'warning' or 'error', not {\"x\": 1}"),
    ],
)
def test_mistakes_of_a_file(tmp_path: Path, statement: str, key: str, reason: str) -> None:
    (problem,) = problems(write(tmp_path, "\n" + statement + "\n"))
    assert (problem.key, problem.reason) == (key, reason)
    assert problem.source.removeprefix(f"{tmp_path}/node.toml:") in ("2", "3")


@pytest.mark.parametrize(
    ("overrides", "key", "reason"),
    [
        (("egress.min_delay_ms=5", "egress.max_delay_ms=4"), "egress.min_delay_ms", "is more than egress.max_delay_ms"),
        (("limits.max_message_bytes=65536", "limits.max_command_bytes=65537"), "limits.max_command_bytes", "is more"),
        (("stream.segment_bytes=67108864",), "stream.segment_bytes", "is more than stream.log_bytes"),
        (("stream.log_bytes=65536",), "stream.log_bytes", "stream.segment_bytes (524288) is more than"),
        (("hls.fragment=11", "hls.window=20"), "hls.fragment", "is more than hls.max_fragment"),
        (("rtmp.listen=127.0.0.1:8080",), "rtmp.listen", "http.listen (0.0.0.0:8080) cannot be open together"),
        (("api.listen=0.0.0.0:1985",), "api.listen", "that needs api.token or api.token_file"),
        (("record.streams=live/*",), "record.streams", "record.streams needs record.directory"),
        (("record.streams=li ve",), "record.streams", "should be a pattern of app/name"),
        (("record.path=../{app}/{name}",), "record.path", "only dots"),
        (("api.token=a", "api.token_file=b"), "api.token_file", "only one of them may be"),
        ((f"node.secret={'s' * 31}",), "node.secret", "secrets of 32 or more printable ASCII characters"),
        ((f"node.secret={'s' * 32} short",), "node.secret", "secrets of 32 or more printable ASCII characters"),
    ],
)
def test_contradictions(overrides: tuple[str, ...], key: str, reason: str) -> None:
    (problem,) = problems(None, overrides)
    assert (problem.source, problem.key) == ("--set", key)
    assert reason in problem.reason


def test_no_contradiction_is_guessed_from_a_broken_value(tmp_path: Path) -> None:
    path = write(tmp_path, "[hls]\nwindow = 'x'\nfragment = 9\nmax_fragment = 20\n")
    assert [each.key for each in problems(path)] == ["hls.window"]
    # What cannot be read might have held the token.
    (problem,) = problems(tmp_path / "gone.toml", ("api.listen=0.0.0.0:1985",))
    assert problem.source.endswith("gone.toml")


def test_a_sections_own_rule(monkeypatch: pytest.MonkeyPatch) -> None:
    """What this module does not foresee is still a problem with a name, not a traceback."""
    monkeypatch.setattr(loading, "_ORDERED", ())
    (problem,) = problems(None, ("hls.window=1",))
    assert problem == Problem("--set", "hls", "window must not be shorter than fragment")


# Files that cannot be read


def test_no_toml(tmp_path: Path) -> None:
    path = write(tmp_path, "[hls]\nwindow = 12\nfragment = = 2\n")
    first, second = problems(path, ("hls.windw=1",))
    assert first.source == f"{path}:3" and first.key == "" and first.reason.startswith("is not TOML: ")
    assert (second.source, second.reason) == ("--set", "no such key; did you mean hls.window?")


def test_no_text(tmp_path: Path) -> None:
    path = tmp_path / "node.toml"
    path.write_bytes(b"[hls]\nwindow = 12 # \xff\n")
    assert problems(path) == [Problem(f"{path}:2", "", "is not UTF-8 text")]


def test_no_file(tmp_path: Path) -> None:
    path = tmp_path / "gone.toml"
    assert problems(path) == [Problem(str(path), "", "cannot be read: No such file or directory")]
    assert problems(tmp_path) == [Problem(str(tmp_path), "", "cannot be read: Is a directory")]


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_no_permission(tmp_path: Path) -> None:
    path = write(tmp_path, "")
    path.chmod(stat.S_IWUSR)
    assert problems(path) == [Problem(str(path), "", "cannot be read: Permission denied")]


# Secrets


def test_secret_from_a_file_beside_the_configuration(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("s3cret\n")
    path = write(tmp_path, '[api]\nlisten = "0.0.0.0:1985"\ntoken_file = "token"\n')
    token = load(path, [], {}).api.token
    assert token is not None and token.get_secret_value() == "s3cret"


def test_secret_file_from_elsewhere_is_relative_to_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "token").write_text("s3cret")
    monkeypatch.chdir(tmp_path / "here")
    token = load(write(tmp_path, '[api]\ntoken_file = "wrong"\n'), ["api.token_file=token"], {}).api.token
    assert token is not None and token.get_secret_value() == "s3cret"


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (None, "cannot be read: No such file or directory"),
        (b"", "should be one or more printable"),
        (b"\xff", "is not UTF-8 text"),
        (b"two words", "should be one or more printable"),
    ],
)
def test_bad_secret_file(tmp_path: Path, content: bytes | None, reason: str) -> None:
    if content is not None:
        (tmp_path / "token").write_bytes(content)
    (problem,) = problems(write(tmp_path, '[api]\ntoken_file = "token"\n'))
    assert (problem.source, problem.key) == (f"{tmp_path}/node.toml:2", "api.token_file")
    assert f"{tmp_path}/token" in problem.reason and reason in problem.reason
    assert "two words" not in problem.reason


@pytest.mark.parametrize("value", ["two words", "é", "\x1b[0m"])
def test_a_bad_secret_is_not_shown(value: str) -> None:
    (problem,) = problems(None, (), {"PYRTMP_API__TOKEN": value})
    assert value not in str(problem)


def test_a_secret_of_a_wrong_type_is_not_shown(tmp_path: Path) -> None:
    (problem,) = problems(write(tmp_path, "[api]\ntoken = 31337\n"))
    assert problem.key == "api.token" and "31337" not in problem.reason


def test_secret_from_systemd(tmp_path: Path) -> None:
    """LoadCredential= puts files into a directory that only this service can read."""
    (tmp_path / "pyrtmp.api.token").write_text("from systemd\n".replace(" ", "-"))
    (tmp_path / "pyrtmp.rtmp.listen").write_text("127.0.0.1:1")  # no secret: not for this way
    environ = {"CREDENTIALS_DIRECTORY": str(tmp_path)}
    config = load(None, ["api.listen=0.0.0.0:1985"], environ)
    assert config.api.secret == "from-systemd" and config.rtmp.listen.port == 1935
    assert load(None, ["api.token=mine"], environ).api.secret == "mine"
    other = tmp_path / "other"
    other.write_text("in-a-file")
    assert load(None, [f"api.token_file={other}"], environ).api.secret == "in-a-file"
    (tmp_path / "pyrtmp.access.token_key").write_text("no key")
    reasons = [str(problem) for problem in problems(None, (), environ)]
    assert any("credentials: access.token_key" in each for each in reasons)
    assert load(None, [], {"CREDENTIALS_DIRECTORY": str(tmp_path / "none")}).api.token is None


# Access

HASH = "sha256:" + "0f" * 32


@pytest.mark.parametrize(
    ("overrides", "key", "reason"),
    [
        (["access.rules=publish live/* key"], "access.rules", 'asks for "key", but there is no access.keys'),
        (["access.rules=publish live/* signed"], "access.rules", "there is no access.signed_secret"),
        (["access.rules=play * allow:10.0.0.0/8 token"], "access.rules", "there is no access.token_secret"),
        ([f"access.keys=publish * {HASH}"], "access.keys", "this protects nothing"),
        (["access.token_secret=" + "x" * 32], "access.token_secret", "this protects nothing"),
        (["access.token_jwks=https://id/keys"], "access.token_jwks", "this protects nothing"),
        (["access.token_jwks=file:///etc/passwd"], "access.token_jwks", "should be a URL"),
        (["access.token_jwks=http://"], "access.token_jwks", "should be a URL"),
        (["access.token_algorithms=none"], "access.token_algorithms", "should be one of HS256"),
        (["access.rules=publish live/* keys"], "access.rules", "is no check"),
        (["access.keys=publish live/* secret"], "access.keys", "64 hexadecimal digits"),
        (["access.default=maybe"], "access.default", "should be 'allow' or 'deny'"),
        (["access.failures_per_minute=-1"], "access.failures_per_minute", "greater than or equal to 0"),
        (["access.signed_secret=a-good-one-of-enough", "access.signed_secret_file=x"], "access.signed_secret_file",
         "is set as well"),
    ],
)  # fmt: skip
def test_access(overrides: list[str], key: str, reason: str) -> None:
    (problem,) = problems(None, tuple(overrides))
    assert problem.key == key and reason in problem.reason


# Callbacks


@pytest.mark.parametrize(
    ("overrides", "key", "reason"),
    [
        (["callbacks.dialect=wowza"], "callbacks.dialect", "should be 'srs', 'nginx-rtmp' or 'mediamtx'"),
        (["callbacks.url=ftp://h/x"], "callbacks.url", "should begin with http:// or https://"),
        (["callbacks.on_play=http://user:password@h/x"], "callbacks.on_play", "neither a user and password"),
        (["callbacks.on_done=http://h/x"], "callbacks.on_done", '"srs" has no on_done'),
        (["callbacks.dialect=nginx-rtmp", "callbacks.on_hls=http://h/x"], "callbacks.on_hls", "has no on_hls"),
        (["callbacks.dialect=mediamtx", "callbacks.on_stop=http://h/x"], "callbacks.on_stop", "has no on_stop"),
        (["callbacks.dialect=mediamtx", "callbacks.on_dvr=http://h/x"], "callbacks.on_dvr", "has no on_dvr"),
        (["callbacks.deadline_seconds=15", "callbacks.url=http://h/x"], "callbacks.deadline_seconds", "closed after"),
        (["callbacks.secret=short"], "callbacks.secret", "should be 32 or more"),
        (["access.rules=play * callback"], "access.rules", 'asks for "callback", but there is no callbacks.url'),
        (["access.rules=play * allow", "callbacks.on_publish=http://h/x"], "callbacks.on_publish", "protects nothing"),
    ],
)  # fmt: skip
def test_callbacks(overrides: list[str], key: str, reason: str) -> None:
    (problem,) = problems(None, tuple(overrides))
    assert problem.key == key and reason in problem.reason
    assert "password@" not in str(problem)


def test_where_callbacks_go() -> None:
    callbacks = load(None, ["callbacks.url=http://h/all", "callbacks.on_play=http://h/play"], {}).callbacks
    assert {callbacks.urls[each] for each in ("connect", "publish", "hls", "dvr", "api")} == {"http://h/all"}
    assert callbacks.urls["play"] == "http://h/play"
    assert Config().callbacks.urls == {}


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("signed_secret", "hunter2"), ("signed_secret", "a-good-one-of-enough hunter2"), ("token_secret", "hunter2"),
        ("token_key", "hunter2"), ("keys", "hunter2"), ("keys", "publish live/cam hunter2"),
    ],
)  # fmt: skip
def test_secrets_of_access_are_not_shown(key: str, value: str) -> None:
    reasons = problems(None, (f"access.{key}={value}",))
    assert reasons and "hunter2" not in "".join(map(str, reasons))


def test_several_secrets_to_sign_with(tmp_path: Path) -> None:
    (tmp_path / "secrets").write_text("the-new-one-that-signs\nthe-old-one-that-ends\n")
    config = load(write(tmp_path, '[access]\nsigned_secret_file = "secrets"\n'), [], {})
    assert config.access.signing_secrets == ("the-new-one-that-signs", "the-old-one-that-ends")
    assert "one-that" not in repr(config)


# TLS


@pytest.mark.parametrize(
    ("overrides", "key", "reason"),
    [
        (["rtmps.listen=0.0.0.0:1936"], "rtmps.listen", "rtmps.listen needs tls.certificate"),
        (["https.listen=0.0.0.0:443"], "https.listen", "https.listen needs tls.certificate"),
        (["api.tls=true"], "api.tls", "api.tls needs tls.certificate"),
        (["tls.certificate=x"], "tls.certificate", "tls.certificate needs tls.key"),
        (["tls.key=x"], "tls.key", "tls.key needs tls.certificate"),
        (["tls.client_certificate=x"], "tls.client_certificate", "needs tls.client_key"),
        (["tls.client_key=x"], "tls.client_key", "needs tls.client_certificate"),
        (["http.redirect_to_https=true"], "http.redirect_to_https", "needs https.listen"),
        (["tls.certificate=/no/c", "tls.key=/no/k"], "tls.certificate", "/no/c cannot be read: No such file"),
        (["tls.ca=/no/ca"], "tls.ca", "/no/ca cannot be used: No such file"),
        (["tls.client_certificate=/no/c", "tls.client_key=/no/k"], "tls.client_certificate",
         "/no/c with /no/k cannot be used: No such file"),
        (["node.advertise=https://a:443"], "node.advertise", "should be host:port or rtmps://host[:port]"),
        (["node.advertise=0.0.0.0:1"], "node.advertise", "should be an address to connect to"),
    ],
)  # fmt: skip
def test_tls(overrides: list[str], key: str, reason: str) -> None:
    (problem,) = problems(None, tuple(overrides))
    assert problem.key == key and reason in problem.reason


def test_files_beside_the_configuration(tmp_path: Path) -> None:
    authority = Authority(tmp_path / "pki")
    pair = authority.issue()
    text = '[tls]\ncertificate = "pki/server.pem"\nkey = "pki/server.key"\nclient_ca = "pki/authority.pem"\n'
    path = write(tmp_path, text + '[rtmps]\nlisten = "127.0.0.1:1936"\n[api]\ntls = true\n')
    config = load(path, ["https.listen=127.0.0.1:443", f"tls.ca={authority.file}"], {})
    assert (config.tls.certificate, config.tls.key) == (str(pair.certificate), str(pair.key))
    assert config.tls.client_ca == config.tls.ca == str(authority.file)
    other = authority.issue("other")
    other.key.replace(pair.key)
    (problem,) = problems(path)
    assert (problem.source, problem.key) == (f"{path}:3", "tls.key")
    assert problem.reason == f"{pair.key} is not the key of {pair.certificate}"
    authority.file.write_text("none")
    assert [each.key for each in problems(path, ("tls.ca=pki/authority.pem",))] == ["tls.key", "tls.ca"]


def test_listeners_clash_with_tls_too() -> None:
    reasons = [each.reason for each in problems(None, ("rtmps.listen=0.0.0.0:8080",))]
    assert "http.listen (0.0.0.0:8080) and rtmps.listen (0.0.0.0:8080) cannot be open together" in reasons


def test_who_listens_with_tls_keeps_the_certificate(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    first, second = authority.issue("first").settings, authority.issue("second").settings
    listen = "rtmps.listen=127.0.0.1:1936"
    live, restart, config = changed([listen, *first], [listen, *second])
    assert (live, restart) == (("tls.certificate", "tls.key"), ())
    assert f"tls.certificate={config.tls.certificate}" in second
    live, restart, config = changed([listen, *first], [])
    assert (live, restart) == ((), ("rtmps.listen", "tls.certificate", "tls.key"))
    assert f"tls.certificate={config.tls.certificate}" in first


# The places in a file


def test_lines() -> None:
    text = '''
[a] # one
b = """
c = 1
[d]
"""
"q.r" = [
  1, # ]
  2,
]
e.f = 1
[[g]]
h = { i = 1, j = 2 }
[k.l]
m = 1
[a.z]
'''
    assert sources.toml_lines(text) == {
        "a": 2,
        "a.b": 3,
        "a.q.r": 7,
        "a.e": 11,
        "a.e.f": 11,
        "g": 12,
        "g.h": 13,
        "g.h.i": 13,
        "g.h.j": 13,
        "k": 14,
        "k.l": 14,
        "k.l.m": 15,
        "a.z": 16,
    }


# What can change while a node runs


def changed(before: list[str], after: list[str]) -> tuple[tuple[str, ...], tuple[str, ...], Config]:
    changes = compare(load(None, before, {}), load(None, after, {}))
    return changes.live, changes.restart, changes.config


def test_nothing_changes() -> None:
    assert changed(["hls.window=30"], ["hls.window=30"]) == ((), (), load(None, ["hls.window=30"], {}))


def test_what_follows_at_once_and_what_waits() -> None:
    live, restart, config = changed(
        ["rtmp.listen=127.0.0.1:1"], ["rtmp.listen=127.0.0.1:2", "node.id=x", "node.drain_seconds=3", "hls.window=30"]
    )
    assert live == ("node.drain_seconds", "hls.window")
    assert restart == ("node.id", "rtmp.listen")
    # What waits stays as it was, and is told again at the next time.
    assert (config.rtmp.listen.port, config.node.id) == (1, Config().node.id)
    assert (config.node.drain_seconds, config.hls.window) == (3, 30)


def test_every_option_either_waits_or_follows() -> None:
    sections = {name.partition(".")[0] for name in options() if name not in RESTART}
    assert sections == {
        "node", "rtmp", "http", "tls", "api", "access", "callbacks", "edge", "forward", "egress", "limits", "timeouts",
        "stream", "hls", "log", "record",
    }
    assert set(options()) >= RESTART
    assert {name for name in options() if name.startswith(("node.", "rtmp.")) and name not in RESTART} == {
        "node.drain_seconds", "node.secret", "node.secret_file", "rtmp.proxy_from"
    }


def test_a_token_changes() -> None:
    live, restart, config = changed(["api.token=a"], ["api.token=b"])
    assert (live, restart, config.api.secret) == (("api.token",), (), "b")
    live, restart, config = changed(["api.token=a"], [])
    assert (live, restart, config.api.secret) == (("api.token",), (), "")


def test_an_open_api_keeps_its_token() -> None:
    """A listener that others reach stays open until the restart, so its token must stay, too."""
    live, restart, config = changed(["api.listen=0.0.0.0:1", "api.token=a"], ["api.listen=127.0.0.1:1"])
    assert (live, restart) == ((), ("api.listen", "api.token"))
    assert config.api.secret == "a" and not config.api.listen.is_loopback
    live, restart, config = changed(["api.listen=0.0.0.0:1", "api.token=a"], ["api.listen=0.0.0.0:1", "api.token=b"])
    assert (live, restart, config.api.secret) == (("api.token",), (), "b")


# What people read


def test_every_number_has_bounds_and_its_default_is_inside() -> None:
    numbers = {each.name: each for each in options().values() if type(each.default) in (int, float)}
    assert set(BOUNDS) == set(numbers)
    for name, (low, high) in BOUNDS.items():
        assert low <= numbers[name].default <= high, name


def test_every_option_says_what_it_means() -> None:
    assert [each.name for each in options().values() if len(each.doc) < 10] == []
    assert len(options()) == sum(len(dataclasses.fields(getattr(Config(), f.name))) for f in dataclasses.fields(Config))


def test_reference_is_up_to_date() -> None:
    assert (ROOT / "config" / "REFERENCE.md").read_text() == reference(), "run make reference"
    for each in options().values():
        assert f"| `{each.key}` |" in reference()


def test_example_is_up_to_date_and_changes_nothing() -> None:
    path = ROOT / "config" / "origin.toml"
    assert path.read_text() == example(), "run make reference"
    assert load(path, [], {}) == Config()
    assert set(sources.read_file(path).values) == {
        name for name, option in options().items() if option.default is not None and not option.computed
    }


def test_the_packages_below_do_without_pydantic() -> None:
    code = "import sys, hls.settings, pyrtmp.settings; sys.exit('pydantic' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False, cwd=ROOT).returncode == 0
