"""What the directives of nginx-rtmp mean here.  Names and defaults are those of nginx-rtmp 1.2 and its wiki."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from cluster.importing.admission import Entry, checks
from cluster.importing.blocks import Directive
from cluster.importing.draft import SAME, Carry, Draft, as_number, unless
from cluster.importing.recording import of_nginx_rtmp

_UNITS: Final = {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86400, "": 1}
_SIZES: Final = {"k": 1024, "m": 1024**2, "g": 1024**3, "": 1}
_NAME: Final = re.compile(r"[A-Za-z0-9._~-]+")
"""Of an application that can be one here."""


def read(directives: tuple[Directive, ...], draft: Draft) -> None:
    """Carry a whole file."""
    draft.walk(directives, _TOP)
    servers = [(rtmp, server) for rtmp in directives if rtmp.name == "rtmp" for server in rtmp.all("server")]
    for rtmp, server in servers[:1]:
        draft.walk(server.block or (), _SERVER)
        _applications(rtmp, server, draft)
    for _, other in servers[1:]:
        draft.leave(other, f"a node is one server: only that of line {servers[0][1].line} is carried")


def _is_on(directive: Directive | None) -> bool:
    return directive is not None and directive.value == "on"


def _seconds(text: str) -> float | None:
    """nginx's times: ``5s``, ``500ms``, ``1m30s``; a number alone is seconds."""
    if not re.fullmatch(r"([0-9]{1,9}(ms|[smhd]|$))+", text):
        return None
    return sum(int(number) * _UNITS[unit] for number, unit in re.findall(r"([0-9]+)(ms|[smhd]|)", text))


def _time(setting: str) -> Callable[[Draft, Directive], None]:
    def carry(draft: Draft, directive: Directive) -> None:
        seconds = _seconds(directive.value)
        draft.number(setting, directive.value if seconds is None else f"{seconds:.6g}", directive)

    return carry


def _size(setting: str) -> Carry:
    def carry(draft: Draft, directive: Directive) -> None:
        found = re.fullmatch(r"([0-9]{1,12})([kKmMgG]?)", directive.value)
        text = str(int(found[1]) * _SIZES[found[2].lower()]) if found else directive.value
        draft.number(setting, text, directive)

    return carry


# Around the applications


def _listen(draft: Draft, directive: Directive) -> None:
    host, _, port = directive.value.rpartition(":")
    draft.set("rtmp.listen", f"{'0.0.0.0' if host in ('', '*') else host}:{port}", directive)
    if "proxy_protocol" in directive.arguments:
        draft.leave(directive, "proxy_protocol: rtmp.proxy_from needs the addresses of the balancers")


def _workers(draft: Draft, directive: Directive) -> None:
    if directive.value != "auto":
        draft.leave(directive, "node.workers is one for each core, and all of them serve every stream")


_WEB: Final = (
    "is not read: viewers get HLS and HTTP-FLV at http.listen, /APP/NAME.m3u8 and /APP/NAME.flv; nginx can stand in "
    "front (config/nginx.conf). Statistics and control are at api.listen"
)

_TOP: Final[Mapping[str, Carry]] = {
    "rtmp": lambda draft, directive: draft.walk(directive.block or (), _RTMP),
    "http": _WEB,
    "stream": "is not read; where it does TLS for RTMP: tls.certificate, tls.key, rtmps.listen",
    "include": "is not read: import that file by itself, or put its text here",
    "worker_processes": _workers,
    "rtmp_auto_push": SAME,
    "rtmp_auto_push_reconnect": SAME,
    "rtmp_socket_dir": SAME,
    "user": "systemd does that: config/pyrtmp.service",
    "daemon": "systemd does that: config/pyrtmp.service",
    "pid": "systemd does that: config/pyrtmp.service",
    "worker_rlimit_nofile": "systemd does that: config/pyrtmp.service",
    "error_log": "the log goes to standard error, where journald keeps it; log.file names a file instead",
    **dict.fromkeys(("events", "load_module", "worker_cpu_affinity", "env", "master_process"), SAME),
}

_ROUNDS: Final = "rounds adapt to the load by themselves; egress.min_delay_ms and egress.max_delay_ms bound them"


def _hook(event: str) -> Callable[[Draft, Directive], bool]:
    def carry(draft: Draft, directive: Directive) -> bool:
        return draft.set(f"callbacks.{event}", directive.value, directive) and draft.set(
            "callbacks.dialect", "nginx-rtmp", directive
        )

    return carry


# Applications

_EXECUTED: Final = "nothing is executed; callbacks can have it started elsewhere, forward.to passes streams on"
_MEMORY: Final = "segments stay in memory, and no file is written"
_DASH: Final = "DASH is not supported; HLS is"


def _idle_streams(draft: Draft, directive: Directive) -> None:
    if directive.value == "off":
        draft.set("stream.play_wait_seconds", 0, directive)
        draft.set("stream.grace_seconds", 0, directive)


_LENGTH: Final = "files have no largest size: record.file_seconds bounds how long they are"

_RECORDER: Final[Mapping[str, Carry]] = {
    **dict.fromkeys(
        ("record", "record_path", "record_suffix", "record_unique", "record_interval"), SAME  # see _recordings
    ),
    "record_lock": SAME,
    "record_append": unless("off", "a complete file is not added to: the next one gets a number"),
    "record_max_size": _LENGTH,
    "record_max_frames": _LENGTH,
    "record_notify": unless("off", "publishers are not told; callbacks.on_dvr tells a back end"),
    "on_record_done": _hook("on_dvr"),
    "exec_record_done": "nothing is executed; callbacks.on_dvr tells a back end of every file that is complete",
}  # fmt: skip

_APPLICATION: Final[Mapping[str, Carry]] = {
    **_RECORDER,
    "max_connections": as_number("limits.max_connections"),
    "max_message": _size("limits.max_message_bytes"),
    "max_streams": as_number("limits.max_message_streams"),
    "drop_idle_publisher": _time("timeouts.media_idle"),
    "allow": SAME,  # see _rules
    "deny": SAME,
    "timeout": "every state has a deadline of its own: section [timeouts]",
    "notify_method": unless("post", "the back end is asked with POST only"),
    "on_disconnect": "there is no such callback",
    "access_log": "the end of every session is a line in the log",
    "log_format": "log.format is text or json",
    **dict.fromkeys(
        (
            "server_name", "chunk_size", "ack_window", "out_queue", "out_cork", "ping", "ping_timeout", "so_keepalive",
            "buflen", "busy", "play_time_fix", "publish_time_fix", "stream_buckets", "buffer", "sync", "interleave",
            "wait_key", "wait_video", "publish_notify", "meta", "relay_buffer", "push_reconnect", "pull_reconnect",
            "netcall_timeout", "netcall_buffer", "notify_relay_redirect",
        ),
        SAME,
    ),
    "live": SAME,
    "idle_streams": _idle_streams,
    "push": SAME,  # see _pushes
    "pull": SAME,  # see _pulls
    "on_publish": SAME,  # see _rules
    "on_play": SAME,
    "on_publish_done": _hook("on_unpublish"),
    "on_play_done": _hook("on_stop"),
    "on_done": _hook("on_done"),
    "on_update": "there is no such callback; pyrtmp kick ends a client",
    "session_relay": SAME,
    "hls": SAME,
    "hls_fragment": _time("hls.fragment"),
    "hls_max_fragment": _time("hls.max_fragment"),
    "hls_playlist_length": _time("hls.window"),
    "hls_path": _MEMORY,
    "hls_nested": SAME,
    "hls_variant": "there are no variant playlists: each stream has one of its own",
    "hls_keys": unless("off", "segments are not encrypted: use HTTPS, and access.rules to decide who plays"),
    "hls_type": unless("live", "playlists are live ones"),
    "hls_base_url": "playlists name their segments relative to themselves",
    "hls_cleanup": SAME,
    "play": "files are not played; pyrtmp publish --loop sends one as a live stream",
    "recorder": lambda draft, directive: draft.walk(directive.block or (), _RECORDER),
    **dict.fromkeys(
        (
            "hls_continuous", "hls_sync", "hls_fragment_naming", "hls_fragment_naming_granularity",
            "hls_fragment_slicing", "hls_audio_buffer_size", "hls_max_audio_delay", "hls_muxdelay", "hls_key_path",
            "hls_key_url", "hls_fragments_per_key", "exec_options", "exec_kill_signal", "respawn", "respawn_timeout",
            "exec_block", "play_restart", "notify_update_timeout", "notify_update_strict", "play_temp_path",
            "play_local_path",
        ),
        SAME,
    ),
    **dict.fromkeys(
        (
            "exec", "exec_push", "exec_pull", "exec_publish", "exec_publish_done", "exec_play", "exec_play_done",
            "exec_static",
        ),
        _EXECUTED,
    ),
    "dash": unless("off", _DASH),
    **dict.fromkeys(
        ("dash_path", "dash_fragment", "dash_playlist_length", "dash_nested", "dash_cleanup"), SAME
    ),
}  # fmt: skip
"""In an application; most of it may stand around it, too."""

_SERVER: Final[Mapping[str, Carry]] = {
    **_APPLICATION,
    "listen": _listen,
    "on_connect": _hook("on_connect"),
    "application": SAME,  # see _applications
}

_RTMP: Final[Mapping[str, Carry]] = {
    **_SERVER,
    "server": SAME,  # see read
}


def _applications(rtmp: Directive, server: Directive, draft: Draft) -> None:
    """There, applications that are not named do not exist, nor do streams where ``live`` is not on."""
    applications = list(server.all("application"))
    draft.refuse_others(server)
    if not any(_is_on(_inherited("hls", (each, server, rtmp))) for each in applications):
        draft.set("http.listen", "127.0.0.1:8080", server, why="nobody plays by HTTP in the other file")
    for each in applications:
        draft.walk(each.block or (), _APPLICATION)
        if _is_on(_inherited("live", (each, server, rtmp))):
            for action in ("publish", "play"):
                _rule(action, each, (each, server, rtmp), draft)
            _pushes(each, draft)
            _recordings(each, (each, server, rtmp), draft)
        else:
            for record in each.all("record"):
                if record.value != "off":
                    draft.leave(record, "nothing can be published where live is not on")
    _pulls(applications, draft)


def _inherited(name: str, scopes: Sequence[Directive]) -> Directive | None:
    """The directive of the innermost block that has it."""
    return next((found for scope in scopes if (found := scope.first(name)) is not None), None)


def _rule(action: str, application: Directive, scopes: Sequence[Directive], draft: Draft) -> None:
    """The first entry that names the address counts, the application's own before those around it."""
    hook = _inherited(f"on_{action}", scopes)
    try:
        if not _NAME.fullmatch(application.value):
            raise ValueError("its name has characters other than letters, digits and . _ ~ -")
        if hook is not None and not _hook(f"on_{action}")(draft, hook):
            raise ValueError(f"the back end that decides (line {hook.line}) could not be carried")
        entries = [
            Entry.parse(rule.name == "allow", rule.arguments[-1] if rule.arguments else "")
            for scope in scopes
            for rule in scope.block or ()
            if rule.name in ("allow", "deny") and (len(rule.arguments) < 2 or action in rule.arguments[:-1])
        ]
        decided = checks(entries, otherwise=True, callback=hook is not None)
        draft.rule(f"{action} {application.value}/** {decided}", application)
        if decided.count("deny:") > len(entries):
            draft.leave(
                application,
                f"carried, but the rule for {action} lists all that may not come: whoever is allowed by address is not "
                "asked about",
            )
    except ValueError as error:
        draft.leave(application, f"does not become access.rules, so nobody may {action} there: {error}")


def _pushes(application: Directive, draft: Draft) -> None:
    targets = []
    for push in application.all("push"):
        options = _options(push)
        place, app, name = _relay(push.value, options)
        target = f"rtmp://{place}/{app or application.value}" if app or name else place
        if name:
            target += f"/{name}"
        if draft.fits("forward.to", [target], push):
            targets.append(target)
            if left := ", ".join(sorted(set(options) - {"app", "name", "playPath"})):
                draft.leave(push, f"its parameters are not sent: {left}")
    if targets:
        draft.insert("forward.apps", application.value, targets, application)


def _recordings(application: Directive, scopes: Sequence[Directive], draft: Draft) -> None:
    """What is recorded by the application itself and by its recorder blocks; here a stream is recorded once."""
    first: Directive | None = None
    for scope in (application, *application.all("recorder")):
        around = scopes if scope is application else (scope, *scopes)
        record = _inherited("record", around)
        if record is None or "off" in record.arguments or not _NAME.fullmatch(application.value):
            continue
        if first is not None:
            draft.leave(scope, f"a stream is recorded once, as line {first.line} says")
        elif "all" in record.arguments or {"audio", "video"} <= set(record.arguments):
            first = record
            _record(application, record, around, draft)
        else:
            draft.leave(record, "only whole streams are recorded, and always: record.streams says which ones")


def _record(application: Directive, record: Directive, scopes: Sequence[Directive], draft: Draft) -> None:
    path, suffix, interval, unique = (
        _inherited(f"record_{each}", scopes) for each in ("path", "suffix", "interval", "unique")
    )
    draft.extend("record.streams", [f"{application.value}/**"], record)
    draft.set("record.format", "flv", record)
    if interval is None:
        draft.set("record.file_seconds", 0, record, why="a file ends with its publisher in the other file")
    else:
        _time("record.file_seconds")(draft, interval)
    names = of_nginx_rtmp(
        application.value,
        path="" if path is None else path.value,
        suffix=".flv" if suffix is None else suffix.value,
        unique=_is_on(unique),
    )
    names.carry(draft, path or record)


def _options(relay: Directive) -> dict[str, str]:
    """What stands behind the URL: ``name=value``."""
    return dict(each.partition("=")[::2] for each in relay.arguments[1:])


def _relay(url: str, options: Mapping[str, str]) -> tuple[str, str, str]:
    """``host:port``, application and name, "" where they are the stream's own."""
    place, _, path = url.removeprefix("rtmp://").partition("/")
    app, _, name = path.strip("/").partition("/")
    if not re.search(r":[0-9]+$", place):
        place += ":1935"
    return place, options.get("app", app), options.get("name", options.get("playPath", name))


def _pulls(applications: Sequence[Directive], draft: Draft) -> None:
    """Where every application is fetched, the node is an edge."""
    pulls = [(each, pull) for each in applications for pull in each.all("pull")]
    if not pulls:
        return
    if any(each.first("pull") is None for each in applications):
        for _, pull in pulls:
            draft.leave(pull, "a node that fetches streams is an edge for all of them: run one, with edge.origins")
        return
    origins = []
    for application, pull in pulls:
        place, app, name = _relay(pull.value, _options(pull))
        if "static" in pull.arguments or name or app not in ("", application.value):
            draft.leave(pull, "an edge fetches any stream while somebody watches, under its own name")
        origins.append(place)
    first = pulls[0][1]
    if draft.extend("edge.origins", list(dict.fromkeys(origins)), first):
        draft.set("node.role", "edge", first)
