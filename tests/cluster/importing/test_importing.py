"""Files as people have them, in the words of the two servers' own documents, and files that nobody should have."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cluster.cli import main
from cluster.config import Config, load
from cluster.importing import KINDS, BlocksError, Imported, convert, nginx_rtmp, srs
from tests.cluster.tls.authority import Authority


@pytest.fixture
def taken(tmp_path: Path) -> Any:
    """What ``pyrtmp check`` would make of an import."""

    def take(imported: Imported) -> Config:
        path = tmp_path / "imported.toml"
        path.write_text(imported.toml)
        return load(path, [], {})

    return take


def advice(imported: Imported) -> dict[str, str]:
    """By line and name."""
    return {f"{note.line} {note.name}": note.advice for note in imported.notes}


SRS_ORIGIN = """\
# An origin that asks a back end, and sends all it gets to two others.
listen              1936;
max_connections     800;
srs_log_tank        console;
daemon              off;
http_api { enabled on; listen 1990; }
http_server { enabled on; listen 127.0.0.1:8888; dir ./objs/nginx/html; crossdomain off; }
rtc_server { enabled on; listen 8000; }
srt_server { enabled off; listen 10080; }
vhost __defaultVhost__ {
    chunk_size 60000;
    publish { firstpkt_timeout 30000; normal_timeout 7500; }
    play { gop_cache off; queue_length 10; mw_latency 350; }
    hls { enabled on; hls_fragment 4; hls_window 40; hls_path ./objs/nginx/html; }
    http_remux { enabled on; mount [vhost]/[app]/[stream].flv; }
    http_hooks {
        enabled on;
        on_publish http://10.0.0.9:8085/api/v1/streams http://10.0.0.10:8085/api/v1/streams;
        on_play http://10.0.0.9:8085/api/v1/sessions;
        on_stop http://10.0.0.9:8085/api/v1/sessions;
        on_dvr http://10.0.0.9:8085/api/v1/dvrs;
    }
    security { enabled on; deny publish 10.6.0.0/16; allow publish all; allow play all; }
    forward { enabled on; destination 10.0.0.21:1935 10.0.0.22; backend http://10.0.0.9:8085/api/v1/forward; }
    dvr { enabled off; }
    transcode { enabled on; }
}
vhost other.example.org { hls { enabled on; hls_fragment 2; } }
vhost gone.example.org { enabled off; }
"""


def test_an_origin_of_srs(taken: Any) -> None:
    imported = convert(SRS_ORIGIN)
    config = taken(imported)
    assert str(config.rtmp.listen) == "0.0.0.0:1936" and str(config.api.listen) == "127.0.0.1:1990"
    assert str(config.http.listen) == "127.0.0.1:8888" and config.http.cors_origins == ()
    assert config.limits.max_connections == 800
    assert (config.timeouts.first_media, config.timeouts.media_idle) == (30, 7.5)
    assert config.stream.log_seconds == 10 and (config.hls.fragment, config.hls.window) == (4, 40)
    assert config.callbacks.dialect == "srs" and config.callbacks.on_connect is None
    assert config.callbacks.on_publish == "http://10.0.0.9:8085/api/v1/streams"
    assert config.callbacks.on_play == config.callbacks.on_stop == "http://10.0.0.9:8085/api/v1/sessions"
    assert config.callbacks.on_dvr == "http://10.0.0.9:8085/api/v1/dvrs" and config.record.streams == ()
    assert config.access.rules == ("publish * deny:10.6.0.0/16 callback", "play * callback")
    assert config.forward.to == ("10.0.0.21:1935", "10.0.0.22:1935")
    assert config.forward.ask_url == "http://10.0.0.9:8085/api/v1/forward"
    told = advice(imported)
    assert set(told) == {
        "6 listen", "7 dir", "8 rtc_server", "13 gop_cache", "13 mw_latency", "14 hls_path", "18 on_publish",
        "26 transcode", "28 vhost other.example.org",
    }  # fmt: skip
    assert "api.token_file" in told["6 listen"] and "WebRTC" in told["8 rtc_server"]
    for note in imported.notes:
        assert f"#   {note}\n" in imported.toml


def test_recordings_of_srs(taken: Any, tmp_path: Path) -> None:
    imported = convert("""vhost __defaultVhost__ {
        dvr {
            enabled on;
            dvr_apply live/cam all live/*;
            dvr_plan segment;
            dvr_duration 1800;
            dvr_path ./objs/nginx/html/[app]/[stream]/[2006]-[01]-[02]T[15].[04].[05].[timestamp].mp4;
            dvr_wait_keyframe on;
            time_jitter zero;
        }
    }""")
    record = taken(imported).record
    assert record.streams == ("live/cam", "all") and (record.format, record.file_seconds) == ("mp4", 1800)
    assert record.directory == str(tmp_path / "objs/nginx/html")
    assert record.path == "{app}/{name}/%Y-%m-%dT%H.%M.%S"
    told = advice(imported)
    assert set(told) == {"4 dvr_apply", "7 dvr_path", "9 time_jitter"}
    assert told["4 dvr_apply"].startswith("live/* is not recorded: the name has a character other than")
    assert "relative to the configuration file" in told["7 dvr_path"] and "in UTC" in told["7 dvr_path"]


def test_recordings_of_srs_by_default(taken: Any) -> None:
    record = taken(convert("vhost a { dvr { enabled on; } }")).record
    assert record.streams == ("*",) and (record.format, record.file_seconds) == ("flv", 0)
    assert record.path == "{app}/{name}.%Y%m%dT%H%M%SZ"
    assert taken(convert("vhost a { dvr { enabled on; dvr_plan segment; } }")).record.file_seconds == 30
    assert taken(convert("vhost a { dvr { enabled off; dvr_apply all; } }")).record.streams == ()


def test_an_edge_of_srs(taken: Any) -> None:
    imported = convert("""
        listen 1935;
        vhost __defaultVhost__ { cluster { mode remote; origin 10.0.0.1 10.0.0.2:19350; token_traverse on; } }
    """)
    config = taken(imported)
    assert config.node.role == "edge" and [str(each) for each in config.edge.origins] == [
        "10.0.0.1:1935", "10.0.0.2:19350",
    ]  # fmt: skip
    assert imported.notes == ()
    # Nobody from elsewhere plays by HTTP there, either.
    assert config.http.listen.is_loopback and "nobody plays by HTTP" in imported.toml
    by_http = convert("vhost a { cluster { mode remote; origin 10.0.0.1; protocol flv; coworkers 10.0.0.3:1985; } }")
    assert [str(each) for each in taken(by_http).edge.origins] == ["http://10.0.0.1:8080"]
    assert set(advice(by_http)) == {"1 coworkers"}


@pytest.mark.parametrize(
    ("block", "rules"),
    [
        ("deny publish all;", ("publish * deny", "play * allow")),
        ("allow publish 10.0.0.0/8;", ("publish * allow:10.0.0.0/8 deny", "play * deny")),
        ("allow play all; deny play 10.1.2.3;", ("publish * deny", "play * deny:10.1.2.3/32 allow")),
        ("", ("publish * deny", "play * deny")),
    ],
)
def test_security_of_srs_denies_first(block: str, rules: tuple[str, ...], taken: Any) -> None:
    imported = convert(f"vhost __defaultVhost__ {{ security {{ enabled on; {block} }} }}")
    assert taken(imported).access.rules == rules
    assert taken(convert(f"vhost __defaultVhost__ {{ security {{ {block} }} }}")).access.rules == ()


def test_one_port_for_viewers_and_api_of_srs(taken: Any) -> None:
    imported = convert("http_api { enabled on; listen 8080; } http_server { enabled on; listen 8080; }")
    config = taken(imported)
    assert (config.http.listen.port, config.api.listen.port) == (8080, 1985)
    assert any("do not share a port" in note.advice for note in imported.notes)


def test_certificates_that_are_there_and_that_are_not(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "conf").mkdir()
    issued = Authority(tmp_path).issue()
    path = tmp_path / "conf" / "srs.conf"

    def text(certificate: str) -> str:
        return f"""
            http_server {{ enabled on; https {{ enabled on; listen 8443; key ./server.key; cert ./{certificate}; }} }}
            rtmps {{ enabled on; listen 1936; key ./server.key; cert ./{certificate}; }}
        """

    Path(issued.certificate).rename(tmp_path / "server.crt")
    Path(issued.key).rename(tmp_path / "server.key")
    path.write_text(text("server.crt"))
    assert main(["import", str(path)]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    imported = tmp_path / "imported.toml"
    imported.write_text(out)
    config = load(imported, [], {})
    assert config.https.listen is not None and config.https.listen.port == 8443
    assert config.rtmps.listen is not None and config.rtmps.listen.port == 1936
    path.write_text(text("gone.crt"))
    assert main(["import", str(path)]) == 0
    out, err = capsys.readouterr()
    imported.write_text(out)
    assert load(imported, [], {}).https.listen is None
    assert err.count("cert or key cannot be read here; set tls.certificate") == 2


NGINX = """\
user www-data;
worker_processes auto;
events { worker_connections 1024; }
rtmp {
    max_message 2M;
    server {
        listen 1935 proxy_protocol;
        listen [::]:1935;
        on_connect http://127.0.0.1:8000/connect;
        deny publish 10.6.0.0/16;

        application live {
            live on;
            hls on;
            hls_path /var/hls;
            hls_fragment 1500ms;
            hls_playlist_length 1m30s;
            allow publish 10.0.0.0/8;
            deny publish all;
            deny play 203.0.113.7;
            on_play http://127.0.0.1:8000/play;
            on_play_done http://127.0.0.1:8000/done;
            push rtmp://a.example.org/broadcast/the-key;
            push 10.0.0.22 pageUrl=http://x;
            push 10.0.0.23:1936 app=copies name=one;
            record all;
            record_path /var/rec;
            drop_idle_publisher 20s;
            exec ffmpeg -i rtmp://localhost/$app/$name -f flv rtmp://localhost/small/${name};
        }
        application small { live on; on_play http://10.0.0.9/other; }
        application off { live off; }
        application vod { play /var/vod; }
    }
}
http { server { listen 80; location /stat { rtmp_stat all; } } }
"""


def test_a_server_of_nginx_rtmp(taken: Any) -> None:
    imported = convert(NGINX)
    config = taken(imported)
    assert str(config.rtmp.listen) == "0.0.0.0:1935" and str(config.http.listen) == "0.0.0.0:8080"
    assert config.limits.max_message_bytes == 2 * 1024 * 1024 and config.timeouts.media_idle == 20
    assert (config.hls.fragment, config.hls.window) == (1.5, 90)
    assert config.callbacks.dialect == "nginx-rtmp" and config.callbacks.on_publish is None
    assert config.callbacks.on_connect == "http://127.0.0.1:8000/connect"
    assert config.callbacks.on_play == "http://127.0.0.1:8000/play"
    assert config.callbacks.on_stop == "http://127.0.0.1:8000/done"
    assert config.access.default == "deny"
    assert config.access.rules == (
        "publish live/** allow:10.0.0.0/8 deny",
        "play live/** deny:203.0.113.7/32 callback",
        "publish small/** deny:10.6.0.0/16 allow",
    )
    assert config.forward.apps == {
        "live": ("rtmp://a.example.org:1935/broadcast/the-key", "10.0.0.22:1935", "rtmp://10.0.0.23:1936/copies/one")
    }
    assert config.record.streams == ("live/**",) and config.record.format == "flv"
    assert (config.record.directory, config.record.path) == ("/var/rec", "{app}/{name}")
    assert config.record.file_seconds == 0
    told = advice(imported)
    assert set(told) == {
        "1 user", "7 listen", "8 listen", "15 hls_path", "24 push", "27 record_path", "29 exec", "31 application small",
        "31 on_play", "33 play", "36 http",
    }  # fmt: skip
    assert told["31 application small"].startswith("does not become access.rules, so nobody may play there")


def test_recordings_of_nginx_rtmp(taken: Any) -> None:
    imported = convert("""rtmp { server {
        record_interval 30m;
        record_unique on;
        application live { live on; record all; record_path /var/rec/live; on_record_done http://h/rec; }
        application more {
            live on;
            record_max_size 1G;
            recorder quick { record keyframes; }
            recorder whole { record audio video; record_path /srv/rec; on_record_done http://h/rec; record_append on; }
            recorder again { record all; exec_record_done sh x; }
        }
        application same { live on; record all; record_path /var/rec/same; }
        application none { live on; record off; }
        application "*" { live on; record all; }
        application dead { record all; }
    } }""")
    config = taken(imported)
    record = config.record
    assert record.streams == ("live/**", "more/**", "same/**")
    assert (record.directory, record.path) == ("/var/rec", "{app}/{name}-%Y%m%dT%H%M%SZ")
    assert (record.format, record.file_seconds) == ("flv", 1800)
    assert config.callbacks.on_dvr == "http://h/rec" and config.callbacks.dialect == "nginx-rtmp"
    told = advice(imported)
    assert set(told) == {
        "4 record_path", "7 record_max_size", "8 record", "9 record_path", "9 record_append", "10 recorder again",
        "10 exec_record_done", "14 application *", "15 record",
    }  # fmt: skip
    assert told["4 record_path"] == (
        "carried, but files are called {app}/{name}-%Y%m%dT%H%M%SZ.flv in it, with times in UTC"
    )
    assert told["9 record_path"] == "a node has one record.directory; that of line 4 counts"
    assert told["10 recorder again"] == "a stream is recorded once, as line 9 says"


def test_an_edge_of_nginx_rtmp(taken: Any) -> None:
    config = taken(convert("rtmp { server { listen 1935; live on; application live { pull rtmp://10.0.0.1; } } }"))
    assert config.node.role == "edge" and [str(each) for each in config.edge.origins] == ["10.0.0.1:1935"]
    assert config.access.rules == ("publish live/** allow", "play live/** allow")
    mixed = convert("rtmp { server { application a { live on; pull h; } application b { live on; } } }")
    assert taken(mixed).node.role == "origin" and "run one, with edge.origins" in advice(mixed)["1 pull"]


def test_addresses_with_a_back_end(taken: Any) -> None:
    """Who is allowed by address is asked about all the same, as there."""
    imported = convert("""rtmp { server { application live {
        live on; allow publish 128.0.0.0/1; deny publish all; on_publish http://127.0.0.1/auth;
    } } }""")
    assert taken(imported).access.rules[0] == "publish live/** deny:0.0.0.0/1 deny:::/0 callback"


def test_a_second_server_counts_for_nothing(taken: Any) -> None:
    imported = convert("""rtmp {
        server { listen 1935; }
        server { listen 1936; max_message 2M; application live { live on; } }
    }""")
    config = taken(imported)
    assert config.access.rules == () and config.limits.max_message_bytes == 4 * 1024 * 1024
    assert set(advice(imported)) == {"3 server"}


def test_notes_are_printable(taken: Any) -> None:
    imported = convert("""rtmp { server { application live { live on; push h "x\n[access]\r\x7f=1"; "a\nb" 1; } } }""")
    taken(imported)
    assert len(imported.notes) == 2 and all(str(note).isprintable() for note in imported.notes)


def test_a_name_that_is_no_pattern_opens_nothing(taken: Any) -> None:
    for name in ("*", "a allow", "a/**", "\N{SNOWMAN}"):
        imported = convert(f'rtmp {{ server {{ application "{name}" {{ live on; }} }} }}')
        config = taken(imported)
        assert config.access.rules == () and config.access.default == "deny"
        assert "nobody may publish there" in imported.toml


@pytest.mark.parametrize(
    "text",
    [
        "vhost __defaultVhost__ { http_hooks { enabled on; on_publish ftp://x; } }",
        "vhost a { http_hooks { enabled on; on_publish ftp://x; } security { enabled on; allow publish all; } }",
        "rtmp { server { application live { live on; on_publish ftp://x; } } }",
        "rtmp { on_publish ftp://x; server { live on; application live { } } }",
    ],
)
def test_a_back_end_that_cannot_be_asked_opens_nothing(text: str, taken: Any) -> None:
    config = taken(convert(text))
    assert config.callbacks.on_publish is None and config.access.default == "deny"
    assert not any(rule.startswith("publish") for rule in config.access.rules)


# Files that nobody should have

_TABLES = [
    value for module in (srs, nginx_rtmp) for name, value in vars(module).items()
    if isinstance(value, dict) and not name.startswith("__")
]  # fmt: skip
NAMES = sorted(
    {name for table in _TABLES for name in table if name}
    | {"rtmp", "server", "application", "vhost", "enabled", "allow", "deny", "destination", "backend", "origin", "mode"}
    | {"on_publish", "on_play", "on_connect", "on_hls", "cert", "key", "unknown"}
)
VALUES = st.sampled_from(
    ["on", "off", "", "0", "1", "60", "-1", "1e400", "nan", "99999999999", "5s", "1m", "2M", "1935", "[::1]:80",
     ":8080", "host", "host:1", "rtmp://h/a/b?k=v", "http://h/", "http://h/{app}", "all", "10.0.0.0/8", "publish",
     "[2006]/[timestamp]", "/data/[vhost]/[app].mp4", "segment", "live/cam", "-%d-%b.flv", "keyframes", "audio",
     "play", "remote", "flv", "name=x", "app={name}", "file", "trace", "__defaultVhost__", "live", "a b",
     "\x7f\x00\n\"'\\", "\U0001f3a5"]
)  # fmt: skip


def block(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    return st.lists(inner, max_size=8).map(" ".join)


def quoted(word: str) -> str:
    return '"' + word.replace("\\", "\\\\").replace('"', '\\"') + '"'


heads = st.tuples(st.sampled_from(NAMES), st.lists(VALUES, max_size=3)).map(
    lambda head: " ".join([head[0], *map(quoted, head[1])])
)
anything = st.recursive(
    heads.map(lambda head: f"{head};"),
    lambda inner: st.tuples(heads, block(inner)).map(lambda both: f"{both[0]} {{ enabled on; {both[1]} }}"),
    max_leaves=30,
)
texts = block(anything) | block(anything).map(
    lambda inner: f"rtmp {{ server {{ {inner} application live {{ live on; {inner} }} }} }}"
) | block(anything).map(lambda inner: f"{inner} vhost __defaultVhost__ {{ {inner} }}")  # fmt: skip


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(texts, st.sampled_from(KINDS))
def test_whatever_comes_out_is_accepted(taken: Any, text: str, kind: str) -> None:
    imported = convert(text, kind)
    config = taken(imported)
    assert config.api.listen.is_loopback
    for note in imported.notes:
        assert 1 <= note.line <= text.count("\n") + 1 and str(note).isprintable()


# The command


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, out = tmp_path / "nginx.conf", tmp_path / "node.toml"
    path.write_text(NGINX)
    assert main(["import", str(path)]) == 0
    said = capsys.readouterr()
    out.write_text(said.out)
    assert f"pyrtmp: {path}: line 36: http: is not read" in said.err
    assert main(["check", str(out)]) == 0
    capsys.readouterr()
    assert main(["import", "--from", "srs", str(path)]) == 0
    assert "rtmp: is not known to this import" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"listen 1935;\nvhost {", ":2: the block of"),
        (b"pathDefaults:\n  source: publisher\n", ":1: "),
        (b"events { }", ":1: this looks neither like SRS"),
        (b"", ":1: this looks neither"),
        (b"\xff\xfe", ": is not UTF-8 text"),
        (b"listen 1;" + b"#" * 2_000_000, ":1: the file is longer than"),
        (None, ": cannot be read: No such file"),
    ],
)
def test_files_that_cannot_be_read(
    content: bytes | None, reason: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "other.conf"
    if content is not None:
        path.write_bytes(content)
    assert main(["import", str(path)]) == 2
    said = capsys.readouterr()
    assert said.out == "" and f"{path}{reason}" in said.err


def test_many_of_everything_take_no_time() -> None:
    applications = "".join(f"application a{n} {{ live on; allow publish 10.0.0.{n % 256}; }}" for n in range(500))
    assert len(convert(f"rtmp {{ server {{ {applications} }} }}").notes) == 0
    with pytest.raises(BlocksError, match="more than"):
        convert(f"rtmp {{ server {{ {applications * 8} }} }}")
