"""The command ``pyrtmp``.

Exit codes: 0 fine, 1 failed, 2 wrong usage or configuration.  What a command needs is imported when it runs, so that
``pyrtmp --help`` answers at once.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cluster.config import Config
    from cluster.lifecycle import Lifecycle
    from cluster.remote import Remote

OK, FAILED, WRONG = 0, 1, 2


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; its exit code."""
    arguments = make_parser().parse_args(argv)
    command: Callable[[argparse.Namespace], int] = arguments.command
    try:
        code = command(arguments)
        sys.stdout.flush()
        return code
    except KeyboardInterrupt:
        return FAILED
    except BrokenPipeError:
        # Whoever read the output has enough (pyrtmp streams | head); Python must not complain again at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return OK


def make_parser() -> argparse.ArgumentParser:
    """Every command with its options; ``command`` of what it parses is the function to call."""
    parser = argparse.ArgumentParser(
        prog="pyrtmp",
        description="A live media server: takes streams by RTMP, serves them by RTMP, HTTP-FLV and HLS.",
        epilog="Exit codes: 0 fine, 1 failed, 2 wrong usage or configuration.",
    )
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)

    def add(name: str, run: Callable[[argparse.Namespace], int], text: str) -> argparse.ArgumentParser:
        command = commands.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
        command.set_defaults(command=run)
        return command

    serve = add("serve", _serve, "run a node")
    _add_settings(serve)
    serve.add_argument("--demo", action="store_true", help="publish a moving test picture with sound as live/demo")

    check = add("check", _check, "look for mistakes in a configuration file")
    check.add_argument("file", type=Path, metavar="FILE", help="the settings, as TOML")

    importing = add("import", _import, "turn a configuration file of SRS or nginx-rtmp into one of this server")
    importing.add_argument("file", type=Path, metavar="FILE", help="srs.conf or nginx.conf")
    importing.add_argument("--from", dest="kind", choices=("srs", "nginx-rtmp"), help="whose it is (as it looks)")

    doctor = add("doctor", _doctor, "look for what would keep a node from doing well on this machine")
    _add_settings(doctor)

    publish = add("publish", _publish, "push a media file to an RTMP server in real time")
    publish.add_argument("source", type=Path, metavar="FILE", help="FLV, MP4, MKV, MPEG-TS, ...")
    publish.add_argument("url", metavar="URL", help="rtmp://host/app/stream")
    publish.add_argument("--loop", action="store_true", help="begin again at the end of the file")

    probe = add("probe", _probe, "play a stream and report what arrives")
    probe.add_argument("url", metavar="URL", help="rtmp://host/app/stream or http://host:8080/app/stream.flv")
    probe.add_argument("--seconds", type=_seconds, default=10.0, help="how long to watch (10)")
    probe.add_argument("--json", action="store_true", help="report as JSON")

    for name, run, text in (
        ("status", _status, "say how a running node is"),
        ("streams", _streams, "list the streams of a running node"),
        ("explain", _explain, "say who has a stream, where it comes from, who is served, and who was refused"),
        ("top", _top, "show how a running node and its streams are, again every second"),
        ("kick", _kick, "close a client's connection, or end a stream"),
        ("record", _record, "write a stream to files, until its publisher leaves"),
        ("reload", _reload, "have a running node read its settings again"),
        ("restart", _restart, "have a running node replace its worker processes, one after the other"),
        ("drain", _drain, "have a running node let everybody go, and end"),
    ):
        command = add(name, run, text)
        _add_settings(command)
        command.add_argument("--api", metavar="URL", help="where the node's API is (from the settings)")
        if name == "kick":
            command.add_argument("target", metavar="ID", help="id of a client, or app/stream")
        elif name in ("explain", "record"):
            command.add_argument("stream", metavar="STREAM", help="app/stream")
        elif name == "top":
            command.add_argument("--once", action="store_true", help="once only, as where the output is no terminal")
        if name == "record":
            command.add_argument("--stop", action="store_true", help="do so no longer")
        if name not in ("kick", "record", "top", "restart", "drain"):
            command.add_argument("--json", action="store_true", help="what the API answers, as it is")

    secret = add("secret", _secret_needs_kind, "make stream keys, secrets and signed URLs")
    kinds = secret.add_subparsers(title="kinds", metavar="KIND")

    def add_kind(name: str, text: str) -> argparse.ArgumentParser:
        return kinds.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")

    key = add_kind("key", "make a stream key, and the line for access.keys that knows it")
    key.add_argument("pattern", metavar="APP/NAME", help="the stream, or a pattern such as live/*")
    key.add_argument("--actions", default="publish", help="what it opens (publish): with commas, as in access.keys")
    key.add_argument("--stdin", action="store_true", help="take a key that is in use already from standard input")
    key.set_defaults(command=_secret_key)
    random = add_kind("random", "make a secret, such as for api.token or access.signed_secret")
    random.set_defaults(command=_secret_random)
    url = add_kind("url", "sign a URL with access.signed_secret")
    _add_settings(url)
    url.add_argument("url", metavar="URL", help="rtmp://host/app/stream, http://host:8080/app/stream.m3u8 or .flv")
    url.add_argument("--action", choices=("play", "publish"), default="play", help="what it allows (play)")
    url.add_argument("--seconds", type=_lifetime, default=86400, help="how long it is good for (86400)")
    url.add_argument("--ip", metavar="ADDRESS", default="", help="the only client that may use it")
    url.set_defaults(command=_secret_url)

    add("version", _version, "say which version this is")
    return parser


def _add_settings(command: argparse.ArgumentParser) -> None:
    command.add_argument("--config", type=Path, metavar="FILE", help="the settings, as TOML")
    command.add_argument(
        "--set", action="append", default=[], dest="overrides", metavar="SECTION.KEY=VALUE",
        help="one setting; may be given again",
    )  # fmt: skip


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds <= 86400:
        raise argparse.ArgumentTypeError(f"should be a number of seconds, at most 86400, not {text!r}")
    return seconds


def _lifetime(text: str) -> int:
    if not text.isascii() or not text.isdecimal() or not 0 < int(text) <= 10 * 366 * 86400:
        raise argparse.ArgumentTypeError(f"should be a whole number of seconds, at most ten years, not {text!r}")
    return int(text)


def _complain(message: object) -> None:
    print(f"pyrtmp: {message}", file=sys.stderr)


def _load(path: Path | None, overrides: list[str]) -> Config | None:
    """The settings, or None when every mistake in them has been told."""
    from cluster.config import ConfigError, load

    try:
        return load(path, overrides, os.environ)
    except ConfigError as error:
        for problem in error.problems:
            _complain(problem)
        return None


# A node


def _serve(arguments: argparse.Namespace) -> int:
    # Until the node obeys signals, Ctrl+C ends it: as an exception it is lost where no exception can go on, as in the
    # finalizers that run while modules are imported.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    config = _load(arguments.config, arguments.overrides)
    if config is None:
        return WRONG
    from cluster import logs
    from cluster.config import load
    from cluster.node import serve
    from cluster.opening import StartError

    if config.log.file is not None:
        try:
            open(config.log.file, "a").close()
        except OSError as error:
            _complain(f"log.file: {config.log.file}: {error.strerror}")
            return WRONG
    logs.configure(level=config.log.level, format=config.log.format, file=config.log.file)
    try:
        serve(
            config,
            demo=arguments.demo,
            reload=lambda: load(arguments.config, arguments.overrides, os.environ),
            announce=lambda node: _announce(node, arguments.demo),
        )
    except StartError as error:
        _complain(error)
        return FAILED
    return OK


def _announce(node: Lifecycle, demo: bool) -> None:
    from cluster.banner import banner
    from cluster.engine import VERSION

    print(
        banner(
            version=VERSION, rtmp=node.rtmp_address, http=node.http_address, api=node.api_address, demo=demo,
            rtmps=node.rtmps_address, https=node.https_address, api_tls=node.api_tls, prefix=node.prefix,
        ),
        flush=True,
    )


def _check(arguments: argparse.Namespace) -> int:
    if _load(arguments.file, []) is None:
        return WRONG
    print(f"{arguments.file} is fine.")
    return OK


def _import(arguments: argparse.Namespace) -> int:
    from cluster.importing import MAX_BYTES, BlocksError, convert

    path: Path = arguments.file

    def locate(name: str) -> str | None:
        """Relative names are relative to wherever the other server was started: its file is near there."""
        for directory in (path.parent, path.parent.parent, Path()):
            found = (directory / name).absolute()
            if found.is_file() and os.access(found, os.R_OK):
                return str(found.resolve())
        return None

    try:
        with path.open("rb") as file:
            text = file.read(MAX_BYTES + 1).decode("utf-8-sig")
        imported = convert(text, arguments.kind, locate=locate)
    except OSError as error:
        _complain(f"{path}: cannot be read: {error.strerror or error}")
        return WRONG
    except UnicodeDecodeError:
        _complain(f"{path}: is not UTF-8 text")
        return WRONG
    except BlocksError as error:
        _complain(f"{path}:{error.line}: {error}")
        return WRONG
    print(imported.toml, end="", flush=True)
    for note in imported.notes:
        _complain(f"{path}: {note}")
    return OK


def _doctor(arguments: argparse.Namespace) -> int:
    import asyncio

    from cluster.remote import RemoteError

    config = _load(arguments.config, arguments.overrides)
    if config is None:
        return WRONG
    from cluster.checkup import Finding, examine

    try:
        running = _remote_of(config, None).ask("/api/v1/summaries", "GET").get("server") == config.node.id
    except RemoteError:
        running = False

    async def find() -> list[Finding]:
        return [finding async for finding in examine(config, running=running)]

    findings = asyncio.run(find())
    for finding in findings:
        print(finding)
    problems = sum(finding.severity == "problem" for finding in findings)
    if findings:
        print(f"\nProblems: {problems}, warnings: {len(findings) - problems}.")
    else:
        print("Nothing found" + (", and the node is running." if running else "."))
    return FAILED if problems else OK


# Streams


def _publish(arguments: argparse.Namespace) -> int:
    import asyncio

    from cluster.publish import SourceError, publish
    from pyrtmp.errors import LocalError, RtmpError

    def started() -> None:
        print(f"Publishing {arguments.source} to {arguments.url}", flush=True)

    try:
        done = asyncio.run(publish(arguments.source, arguments.url, repeat=arguments.loop, started=started))
    except LocalError as error:
        _complain(error)
        return WRONG
    except (SourceError, RtmpError, OSError, TimeoutError) as error:
        _complain(_network_reason(error, arguments.url))
        return FAILED
    print(f"Published {done.seconds:.1f} s: {done.messages} messages, {done.bytes / 1e6:.2f} MB")
    return OK


def _probe(arguments: argparse.Namespace) -> int:
    import asyncio
    import json

    from cluster.probe import probe
    from pyrtmp.errors import LocalError, RtmpError

    try:
        report = asyncio.run(probe(arguments.url, arguments.seconds))
    except LocalError as error:
        _complain(error)
        return WRONG
    except (RtmpError, OSError, TimeoutError) as error:
        _complain(_network_reason(error, arguments.url))
        return FAILED
    print(json.dumps(report.as_json(), indent=2) if arguments.json else report.as_text())
    return OK if report.is_playing else FAILED


def _network_reason(error: Exception, url: str) -> str:
    from pyrtmp.errors import PeerError, RefusedError

    if isinstance(error, RefusedError):
        return f"{url} was refused: {error.code}" + (f", {error}" if str(error) else "")
    if isinstance(error, PeerError):
        return f"{url}: what answers there does not speak as expected: {error}"
    if isinstance(error, TimeoutError):
        return f"{url}: no answer in time"
    if isinstance(error, OSError):
        return f"{url}: {os.strerror(error.errno) if error.errno and error.errno > 0 else error}"
    return str(error)


# A running node


def _remote(arguments: argparse.Namespace) -> Remote | None:
    config = _load(arguments.config, arguments.overrides)
    return None if config is None else _remote_of(config, arguments.api)


def _remote_of(config: Config, api: str | None) -> Remote:
    """The API of the node with these settings, at ``api`` if that says where."""
    from cluster.banner import reachable
    from cluster.remote import Remote

    scheme = "https" if config.api.tls else "http"
    url = api or f"{scheme}://{reachable(config.api.listen)}"
    own = config.tls.certificate if config.api.tls and not api else None
    return Remote(url, config.api.secret, certificate=own, ca=config.tls.ca)


def _ask(arguments: argparse.Namespace, path: str, method: str, text: Callable[[dict[str, object]], str]) -> int:
    from cluster.remote import RemoteError

    remote = _remote(arguments)
    if remote is None:
        return WRONG
    try:
        answer = remote.ask(path, method)
    except RemoteError as error:
        for complaint in error.problems or (error,):
            _complain(complaint)
        return WRONG if error.problems else FAILED
    except ValueError as error:  # not a URL
        _complain(error)
        return FAILED
    if getattr(arguments, "json", False):
        import json

        print(json.dumps(answer, indent=2))
    else:
        print(text(answer))
    return OK


def _status(arguments: argparse.Namespace) -> int:
    from cluster.remote import status_text

    return _ask(arguments, "/api/v1/summaries", "GET", status_text)


def _streams(arguments: argparse.Namespace) -> int:
    from cluster.remote import streams_text

    return _ask(arguments, "/api/v1/streams?count=10000", "GET", streams_text)


def _explain(arguments: argparse.Namespace) -> int:
    from urllib.parse import quote

    from cluster.explained import explain_text

    stream = quote(arguments.stream, errors="replace")
    return _ask(arguments, f"/api/v1/explain?stream={stream}", "GET", explain_text)


def _top(arguments: argparse.Namespace) -> int:
    from cluster.remote import RemoteError
    from cluster.top import show

    remote = _remote(arguments)
    if remote is None:
        return WRONG
    try:
        show(remote, sys.stdout, sys.stdin, once=arguments.once)
    except (RemoteError, ValueError) as error:  # ValueError: not a URL
        _complain(error)
        return FAILED
    return OK


def _kick(arguments: argparse.Namespace) -> int:
    from cluster.remote import kick_path

    return _ask(arguments, kick_path(arguments.target), "DELETE", lambda answer: f"Kicked {arguments.target}.")


def _record(arguments: argparse.Namespace) -> int:
    from urllib.parse import quote

    path = f"/api/v1/recordings?stream={quote(arguments.stream, errors='replace')}"
    if arguments.stop:
        return _ask(arguments, path, "DELETE", lambda answer: f"{arguments.stream} is no longer recorded.")
    return _ask(arguments, path, "POST", lambda answer: f"{arguments.stream} is recorded.")


def _reload(arguments: argparse.Namespace) -> int:
    from cluster.remote import reload_text

    return _ask(arguments, "/api/v1/reload", "POST", reload_text)


def _restart(arguments: argparse.Namespace) -> int:
    text = "The workers are being replaced one after the other; pyrtmp status shows the new ones."
    return _ask(arguments, "/api/v1/restart", "POST", lambda answer: text)


def _drain(arguments: argparse.Namespace) -> int:
    text = "The node takes nobody new, lets everybody go, and ends."
    return _ask(arguments, "/api/v1/drain", "POST", lambda answer: text)


# Secrets


def _secret_needs_kind(arguments: argparse.Namespace) -> int:
    _complain("secret needs a kind: key, random or url; pyrtmp secret --help says more")
    return WRONG


def _secret_key(arguments: argparse.Namespace) -> int:
    import re

    from cluster.access.keys import MIN_LENGTH, hash_key, new_key
    from cluster.access.rules import KeyEntry

    # Not an argument: every user of the machine sees those.
    key = sys.stdin.readline().rstrip("\r\n") if arguments.stdin else new_key()
    entry = f"{arguments.actions} {arguments.pattern} {hash_key(key)}"
    try:
        KeyEntry.parse(entry)
    except ValueError as error:
        _complain(error)
        return WRONG
    if len(key) < MIN_LENGTH:
        _complain(f"a key of less than {MIN_LENGTH} characters can be found from its hash; pyrtmp secret key makes one")
        return WRONG
    if not re.fullmatch(r"[A-Za-z0-9._~-]+", key):
        _complain("a key of other characters than letters, digits, '.', '_', '-', '~' does not stand in a URL as it is")
        return WRONG
    if not arguments.stdin:
        print(f"key:          {key}")
        name = arguments.pattern.rpartition("/")[2]
        print(f"in OBS:       {'STREAM' if '*' in name else name}?key={key}")
    print(f'access.keys:  "{entry}"')
    return OK


def _secret_random(arguments: argparse.Namespace) -> int:
    import secrets

    print(secrets.token_urlsafe(32))
    return OK


def _secret_url(arguments: argparse.Namespace) -> int:
    import time

    from cluster.access.signed import sign_url

    config = _load(arguments.config, arguments.overrides)
    if config is None:
        return WRONG
    if not config.access.signing_secrets:
        _complain("there is no access.signed_secret to sign with; pyrtmp secret random makes one")
        return WRONG
    expires = int(time.time()) + arguments.seconds
    try:
        print(sign_url(config.access.signing_secrets[0], arguments.action, arguments.url, expires, arguments.ip))
    except ValueError as error:
        _complain(error)
        return WRONG
    return OK


def _version(arguments: argparse.Namespace) -> int:
    from importlib.metadata import version

    print(f"pyrtmp {version('pyrtmp-cluster')}")
    return OK


if __name__ == "__main__":
    sys.exit(main())
