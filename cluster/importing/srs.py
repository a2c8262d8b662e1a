"""What the directives of SRS mean here.  Names and defaults are those of SRS 6 (its ``conf/full.conf``)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from cluster.config.settings import MAX_APP_BYTES
from cluster.importing.admission import Entry, checks
from cluster.importing.blocks import Directive, shown
from cluster.importing.draft import SAME, Carry, Draft, as_number, unless
from cluster.importing.recording import of_srs
from pyrtmp.names import problem

_DEFAULT_VHOST: Final = "__defaultVhost__"

_LEVELS: Final = {"verbose": "debug", "trace": "info", "info": "debug", "warn": "warning", "error": "error"}
_LEVELS_V2: Final = {"trace": "debug", "debug": "debug", "info": "info", "warn": "warning", "error": "error"}


def read(directives: tuple[Directive, ...], draft: Draft) -> None:
    """Carry a whole file."""
    draft.walk(directives, _TOP)
    root = Directive("", (), 1, directives)
    if not any(_is_on(each) for each in root.all("http_server")):
        draft.set("http.listen", "127.0.0.1:8080", root, why="nobody plays by HTTP in the other file")
    if _port(draft.get("api.listen")) == _port(draft.get("http.listen")):
        draft.drop("api.listen", "viewers and the API do not share a port: the API is at 127.0.0.1:1985")
    _vhosts(root, draft)


def _is_on(directive: Directive | None) -> bool:
    """Whether a block is enabled; SRS wants that said."""
    said = directive and directive.first("enabled")
    return said is not None and said.value == "on"


def _unless_off(advice: str) -> Carry:
    """For a block that is not carried, if it is enabled."""

    def carry(draft: Draft, directive: Directive) -> None:
        if directive.block is None or _is_on(directive):
            draft.leave(directive, advice)

    return carry


def _address(text: str) -> str:
    """``1935``, ``:1935``, ``10.0.0.1:1935``, ``[::]:1935`` with an address."""
    host, _, port = text.rpartition(":")
    return f"{host or '0.0.0.0'}:{port}"


def _port(address: str | None) -> str | None:
    return address and address.rpartition(":")[2]


# The server


def _listen(setting: str) -> Carry:
    def carry(draft: Draft, directive: Directive) -> None:
        draft.set(setting, _address(directive.value), directive)
        if len(directive.arguments) > 1:
            draft.leave(directive, f"{setting} is one address; the firewall can redirect other ports to it")

    return carry


def _level(levels: Mapping[str, str]) -> Carry:
    def carry(draft: Draft, directive: Directive) -> None:
        draft.set("log.level", levels.get(directive.value.lower(), directive.value), directive)

    return carry


def _server_id(draft: Draft, directive: Directive) -> None:
    draft.set("node.id", directive.value, directive)


def _log_file(draft: Draft, directive: Directive) -> None:
    draft.leave(directive, "the log goes to standard error, where journald keeps it; log.file names a file instead")


def _http_api(draft: Draft, directive: Directive) -> None:
    if not _is_on(directive):
        return
    listen = directive.first("listen")
    if listen is not None:
        if draft.set("api.listen", f"127.0.0.1:{_port(listen.value)}", listen):
            draft.leave(
                listen,
                "only this machine may ask the API; for others set api.listen to an address that they reach, and "
                "api.token_file (pyrtmp secret random)",
            )
    draft.walk(directive.block or (), _HTTP_API)


def _http_server(draft: Draft, directive: Directive) -> None:
    if not _is_on(directive):
        return
    listen = directive.first("listen") or Directive("http_server", ("8080",), directive.line)
    draft.set("http.listen", _address(listen.value), listen)
    if (crossdomain := directive.first("crossdomain")) is not None and crossdomain.value == "off":
        draft.set("http.cors_origins", [], crossdomain)
    draft.walk(directive.block or (), _HTTP_SERVER)


def _secure(setting: str, default_port: str) -> Carry:
    """A block with ``listen``, ``key`` and ``cert``."""

    def carry(draft: Draft, directive: Directive) -> None:
        if not _is_on(directive):
            return
        certificate, key = directive.first("cert"), directive.first("key")
        listen = directive.first("listen") or Directive(directive.name, (default_port,), directive.line)
        paths = [draft.locate(each.value) if each is not None else None for each in (certificate, key)]
        if certificate is None or key is None or None in paths:
            draft.leave(
                directive,
                f"cert or key cannot be read here; set tls.certificate and tls.key, then {setting} to "
                f"{_address(listen.value)}",
            )
        elif draft.set("tls.certificate", paths[0], certificate) and draft.set("tls.key", paths[1], key):
            draft.set(setting, _address(listen.value), listen)

    return carry


_HTTP_API: Final[Mapping[str, Carry]] = {
    "enabled": SAME,
    "listen": SAME,
    "crossdomain": "web pages of other origins may not ask the API; the console is at api.listen itself",
    "raw_api": _unless_off("pyrtmp reload has a node read its settings again"),
    "auth": _unless_off("there are no user names: set api.token_file (pyrtmp secret random)"),
    "https": _unless_off("set api.tls and tls.certificate; it is HTTPS at api.listen then, and nothing else"),
}

_HTTP_SERVER: Final[Mapping[str, Carry]] = {
    "enabled": SAME,
    "listen": SAME,
    "crossdomain": SAME,
    "dir": "files are not served; the page with the player is built in. A web server can stand in front (nginx.conf)",
    "https": _secure("https.listen", "8088"),
}

_SERVICE: Final = "systemd does that: config/pyrtmp.service"

_TOP: Final[Mapping[str, Carry]] = {
    "listen": _listen("rtmp.listen"),
    "server_id": _server_id,
    "max_connections": as_number("limits.max_connections"),
    "http_api": _http_api,
    "http_server": _http_server,
    "rtmps": _secure("rtmps.listen", "1443"),
    "srs_log_level": _level(_LEVELS),
    "srs_log_level_v2": _level(_LEVELS_V2),
    "srs_log_tank": unless("console", "log.file names a file to log to"),
    "srs_log_file": _log_file,
    "vhost": SAME,  # see _vhosts
    "include": "is not read: import that file by itself, or put its text here",
    "chunk_size": SAME,
    "daemon": unless("off", _SERVICE),
    "pid": _SERVICE,
    "work_dir": SAME,
    "asprocess": _SERVICE,
    "grace_start_wait": "set node.drain_seconds, the longest time from SIGTERM to the end",
    "grace_final_wait": "set node.drain_seconds, the longest time from SIGTERM to the end",
    "force_grace_quit": SAME,
    "utc_time": "the log has local time",
    "ff_log_dir": SAME,
    "ff_log_level": SAME,
    "pithy_print_ms": SAME,
    "empty_ip_ok": SAME,
    "in_docker": SAME,
    "disable_daemon_for_docker": SAME,
    "inotify_auto_reload": unless("off", "pyrtmp reload has a node read its settings again; certificates are watched"),
    "auto_reload_for_docker": SAME,
    "tcmalloc_release_rate": SAME,
    "query_latest_version": SAME,
    "first_wait_for_qlv": SAME,
    "threads": SAME,
    "stats": SAME,
    "circuit_breaker": _unless_off("limits.max_cpu_share has a busy process turn newcomers away"),
    "exporter": _unless_off("metrics are at /metrics of api.listen, under names of our own (config/METRICS.md)"),
    "heartbeat": _unless_off("nothing is sent; ask /api/v1/summaries"),
    "tencentcloud_cls": _unless_off("is not supported; log.format can be json"),
    "tencentcloud_apm": _unless_off("is not supported"),
    "srt_server": _unless_off("SRT is not supported"),
    "rtc_server": _unless_off("WebRTC is not supported"),
    "rtsp_server": _unless_off("RTSP is not supported"),
    "stream_caster": _unless_off("only RTMP is taken in; ffmpeg -c copy can push MPEG-TS and RTSP by RTMP"),
}


# The virtual host


def _vhosts(root: Directive, draft: Draft) -> None:
    """A node has one: the default one, or the first."""
    hosts = [each for each in root.all("vhost") if (said := each.first("enabled")) is None or said.value == "on"]
    if not hosts:
        return
    chosen = next((each for each in hosts if each.value == _DEFAULT_VHOST), hosts[0])
    for each in hosts:
        if each is not chosen:
            draft.leave(
                each,
                f"there are no virtual hosts: that of line {chosen.line} is for every name. Tell streams apart by "
                "application, or run a node for each",
            )
    # The back end and the lists of addresses make rules together.
    draft.walk(chosen.block or (), _VHOST)
    _rules(chosen, draft)


def _cluster(draft: Draft, directive: Directive) -> None:
    mode, origin = directive.first("mode"), directive.first("origin")
    if mode is not None and mode.value == "remote" and origin is not None:
        protocol = directive.first("protocol")
        scheme = "http://" if protocol is not None and protocol.value in ("flv", "http") else ""
        default = "8080" if scheme else "1935"
        origins = [f"{scheme}{_with_port(each, default)}" for each in origin.arguments]
        if draft.extend("edge.origins", origins, origin):
            draft.set("node.role", "edge", mode)
    draft.walk(directive.block or (), _CLUSTER)


def _with_port(text: str, port: str) -> str:
    return text if text.rpartition(":")[2].isdecimal() else f"{text}:{port}"


_CLUSTER: Final[Mapping[str, Carry]] = {
    "mode": SAME,
    "origin": SAME,
    "protocol": SAME,
    "token_traverse": SAME,  # what a player shows goes up, where the edge itself does not refuse it
    "vhost": "there are no virtual hosts",
    "debug_srs_upnode": SAME,
    "follow_client": "an edge asks by the protocol that edge.origins says",
    "origin_cluster": unless("off", "nodes find each other's streams over Redis: registry.url"),
    "coworkers": "nodes find each other's streams over Redis: registry.url",
}


def _forward(draft: Draft, directive: Directive) -> None:
    if not _is_on(directive):
        return
    for each in directive.all("destination"):
        draft.extend("forward.to", [t if "://" in t else _with_port(t, "1935") for t in each.arguments], each)
    for each in directive.all("backend"):
        draft.set("forward.ask_url", each.value, each)


def _play_queue(draft: Draft, directive: Directive) -> None:
    draft.number("stream.log_seconds", directive.value, directive)


_ROUNDS: Final = "rounds adapt to the load by themselves; egress.min_delay_ms and egress.max_delay_ms bound them"

_PLAY: Final[Mapping[str, Carry]] = {
    "gop_cache": unless("on", "a joiner always gets the newest group of pictures; there is no switch"),
    "gop_cache_max_frames": "the group of pictures that is kept is bounded by stream.gop_bytes and stream.gop_seconds",
    "queue_length": _play_queue,
    "time_jitter": unless("full", "timestamps never step backwards here; there is no switch"),
    "mix_correct": SAME,
    "atc": unless("off", "timestamps start anew for each viewer"),
    "atc_auto": SAME,
    "mw_latency": _ROUNDS,
    "mw_msgs": _ROUNDS,
    "send_min_interval": _ROUNDS,
    "reduce_sequence_header": SAME,
}

_PUBLISH: Final[Mapping[str, Carry]] = {
    "firstpkt_timeout": as_number("timeouts.first_media", 1000),
    "normal_timeout": as_number("timeouts.media_idle", 1000),
    "kickoff_for_idle": unless("0", "a publisher stays while nobody watches"),
    "mr": SAME,
    "mr_latency": SAME,
    "parse_sps": SAME,
    "try_annexb_first": SAME,
}

_MEMORY: Final = "segments stay in memory, /APP/NAME.m3u8 names them, and no file is written"

_HLS: Final[Mapping[str, Carry]] = {
    "enabled": SAME,
    "hls_fragment": as_number("hls.fragment"),
    "hls_window": as_number("hls.window"),
    "hls_path": _MEMORY,
    "hls_m3u8_file": unless("[app]/[stream].m3u8", "the playlist is at /APP/NAME.m3u8 and /APP/NAME/index.m3u8"),
    "hls_ts_file": SAME,
    "hls_cleanup": SAME,
    "hls_dispose": "segments go hls.linger seconds after the last request",
    "hls_wait_keyframe": unless("on", "segments begin with key frames; hls.max_fragment bounds them"),
    "hls_keys": unless("off", "segments are not encrypted: use HTTPS, and access.rules to decide who plays"),
    "hls_entry_prefix": "playlists name their segments relative to themselves",
    **dict.fromkeys(
        (
            "hls_td_ratio", "hls_aof_ratio", "hls_on_error", "hls_acodec", "hls_vcodec", "hls_ts_floor",
            "hls_nb_notify", "hls_ctx", "hls_ts_ctx", "hls_fragments_per_key", "hls_key_file", "hls_key_file_path",
            "hls_key_url", "hls_dts_directly", "hls_use_fmp4", "hls_fmp4_file", "hls_init_file",
        ),
        SAME,
    ),
}  # fmt: skip


def _enabled(table: Mapping[str, Carry]) -> Carry:
    def carry(draft: Draft, directive: Directive) -> None:
        if _is_on(directive):
            draft.walk(directive.block or (), table)

    return carry


def _remux(draft: Draft, directive: Directive) -> None:
    mount = directive.first("mount")
    if _is_on(directive) and mount is not None:
        path = mount.value.removeprefix("[vhost]")
        if path != "/[app]/[stream].flv":
            draft.leave(mount, "HTTP-FLV is at /APP/NAME.flv; TS, AAC and MP3 are not served by HTTP")


def _dvr(draft: Draft, directive: Directive) -> None:
    if not _is_on(directive):
        return
    draft.walk(directive.block or (), _DVR)
    streams, plan = directive.first("dvr_apply"), directive.first("dvr_plan")
    if streams is None or streams.value == "all":
        draft.extend("record.streams", ["*"], streams or directive)
    else:
        for each in streams.arguments:
            if wrong := problem(each, MAX_APP_BYTES):  # so it is no pattern, either
                draft.leave(streams, f"{shown(each)} is not recorded: {wrong}")
            else:
                draft.extend("record.streams", [each], streams)
    if plan is not None and plan.value == "segment":
        length = directive.first("dvr_duration") or Directive("dvr_duration", ("30",), plan.line)
        draft.number("record.file_seconds", length.value, length)
    else:
        draft.set("record.file_seconds", 0, plan or directive, why="a file ends with its publisher in the other file")
    path = directive.first("dvr_path") or Directive("dvr_path", (_DVR_PATH,), directive.line)
    names = of_srs(path.value)
    draft.set("record.format", names.ending, path)
    names.carry(draft, path)


_DVR_PATH: Final = "./objs/nginx/html/[app]/[stream].[timestamp].flv"

_DVR: Final[Mapping[str, Carry]] = {
    "enabled": SAME,
    "dvr_apply": SAME,  # see _dvr
    "dvr_plan": SAME,
    "dvr_duration": SAME,
    "dvr_path": SAME,
    "dvr_wait_keyframe": unless("on", "files begin with key frames; there is no switch"),
    "time_jitter": unless("full", "timestamps in a file begin at 0 and never step backwards; there is no switch"),
}


_HOOKS: Final = ("on_connect", "on_publish", "on_play", "on_unpublish", "on_stop", "on_hls", "on_dvr")


def _hooks(draft: Draft, directive: Directive) -> None:
    if not _is_on(directive):
        return
    for each in directive.block or ():
        if each.name in _HOOKS:
            if draft.set(f"callbacks.{each.name}", each.value, each):
                draft.set("callbacks.dialect", "srs", directive)
            elif each.name in ("on_publish", "on_play"):
                draft.refuse_others(each)
            if len(each.arguments) > 1:
                draft.leave(each, "one URL is asked; the others are not")
        elif each.name != "enabled":
            draft.leave(each, "there is no such callback")


def _rules(vhost: Directive, draft: Draft) -> None:
    """The security block decides by address; its denials come before what it allows."""
    security = vhost.first("security")
    if security is None or not _is_on(security):
        return
    rules = [each for each in security.block or () if each.name in ("allow", "deny")]
    hooks = vhost.first("http_hooks")
    for action in ("publish", "play"):
        own = sorted((each for each in rules if each.value == action), key=lambda each: each.name == "allow")
        try:
            entries = [Entry.parse(each.name == "allow", (*each.arguments, "", "")[1]) for each in own]
            asked = hooks is not None and _is_on(hooks) and hooks.first(f"on_{action}") is not None
            if asked and draft.get(f"callbacks.on_{action}") is None:
                raise ValueError("the back end that decides could not be carried")
            # Denied is who no "allow" names; where there are none, only those that "deny" names.
            otherwise = bool(rules) and not any(each.name == "allow" for each in rules)
            draft.rule(f"{action} * {checks(entries, otherwise=otherwise, callback=asked)}", security)
        except ValueError as error:
            draft.leave(security, f"does not become access.rules, so nobody may {action}: {error}")
            draft.refuse_others(security)


_VHOST: Final[Mapping[str, Carry]] = {
    "enabled": SAME,
    "cluster": _cluster,
    "forward": _forward,
    "play": lambda draft, directive: draft.walk(directive.block or (), _PLAY),
    "publish": lambda draft, directive: draft.walk(directive.block or (), _PUBLISH),
    "hls": _enabled(_HLS),
    "http_remux": _remux,
    "http_hooks": _hooks,
    "security": SAME,  # see _rules
    "refer": _unless_off("the page that a player is on is not looked at; access.rules can ask for signed URLs"),
    "http_static": _unless_off("files are not served; a web server can stand in front (config/nginx.conf)"),
    "chunk_size": SAME,
    "tcp_nodelay": SAME,
    "min_latency": SAME,
    "in_ack_size": SAME,
    "out_ack_size": SAME,
    "bandcheck": _unless_off("is not supported; pyrtmp probe measures a stream"),
    "dvr": _dvr,
    "dash": _unless_off("DASH is not supported; HLS is"),
    "hds": _unless_off("HDS is not supported; HLS is"),
    "exec": _unless_off("nothing is executed; callbacks.on_publish can start it elsewhere"),
    "ingest": _unless_off("nothing is fetched by ffmpeg; pyrtmp publish --loop or ffmpeg as a service of its own can"),
    "transcode": _unless_off("nothing is transcoded; ffmpeg as a service of its own can, from one name to another"),
    "srt": _unless_off("SRT is not supported"),
    "rtc": _unless_off("WebRTC is not supported"),
    "rtsp": _unless_off("RTSP is not supported"),
}
