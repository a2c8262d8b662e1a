"""Asking a running node: ``pyrtmp status``, ``streams``, ``explain``, ``top``, ``kick``, ``record``, ``reload``,
``restart`` and ``drain`` are requests to its API."""

from __future__ import annotations

import http.client
import json
import ssl
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from cluster.tls.client import Trust, client_context

TIMEOUT_SECONDS = 5.0


class RemoteError(Exception):
    """The node did not do what was asked; ``str()`` is a sentence for people.

    ``problems`` are what is wrong with the node's settings, a line for each.
    """

    def __init__(self, reason: str, problems: Sequence[str] = ()) -> None:
        super().__init__(reason)
        self.problems = list(problems)


@dataclass(frozen=True, slots=True)
class Remote:
    """The API at ``url`` (``http://127.0.0.1:1985``).  ``certificate`` is a file with the very one that it shows, if
    that is known, ``ca`` one with authorities beside those of the machine."""

    url: str
    token: str = ""
    certificate: str | None = None
    ca: str | None = None

    def ask(self, path: str, method: str = "GET") -> dict[str, Any]:
        """The answer to one request.  Raises ``RemoteError``."""
        request = urllib.request.Request(self.url.rstrip("/") + path, method=method)
        if method == "POST":
            request.add_header("Content-Type", "application/json")
        if self.token:
            request.add_header("Authorization", f"Bearer {self.token}")
        # A proxy from the environment is for the web, not for this machine's own node.
        handlers: list[urllib.request.BaseHandler] = [urllib.request.ProxyHandler({})]
        try:
            if request.type == "https":
                handlers.append(urllib.request.HTTPSHandler(context=self._tls()))
            opener = urllib.request.build_opener(*handlers)
            with opener.open(request, timeout=TIMEOUT_SECONDS) as response:
                answer = json.load(response)
        except urllib.error.HTTPError as error:
            raise self._refusal(error) from None
        except urllib.error.URLError as error:
            raise RemoteError(f"no node answers at {self.url}: {_why(error.reason)}") from None
        except (OSError, http.client.HTTPException) as error:
            raise RemoteError(f"no node answers at {self.url}: {_why(error)}") from None
        except ValueError:
            raise RemoteError(f"what answers at {self.url} is not the API of a node") from None
        if not isinstance(answer, dict) or "server" not in answer:
            raise RemoteError(f"what answers at {self.url} is not the API of a node")
        return answer

    def _tls(self) -> ssl.SSLContext:
        """Raises ``OSError``."""
        if self.certificate is None:
            return client_context(Trust(ca=self.ca))
        # Nobody else has its key: there is no need for an authority, nor for its name, which the address is not.
        context = ssl.create_default_context(cafile=self.certificate)
        context.check_hostname = False
        context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
        return context

    def _refusal(self, error: urllib.error.HTTPError) -> RemoteError:
        try:
            answer = json.load(error)
            return RemoteError(str(answer["error"]), [str(each) for each in answer.get("problems", ())])
        except (ValueError, KeyError, TypeError, AttributeError, OSError):
            return RemoteError(f"what answers at {self.url} is not the API of a node (HTTP {error.code})")
        finally:
            error.close()


def _why(reason: object) -> str:
    if isinstance(reason, TimeoutError):
        return f"no answer within {TIMEOUT_SECONDS:g} s"
    return (reason.strerror if isinstance(reason, OSError) else None) or str(reason)


def kick_path(target: str) -> str:
    """What to delete: a stream for ``app/name``, a client for an id."""
    kind = "streams" if "/" in target else "clients"
    return f"/api/v1/{kind}/{urllib.parse.quote(target.strip('/'))}"


def status_text(answer: dict[str, Any]) -> str:
    """``/api/v1/summaries`` for people."""
    data = answer["data"]
    own, clients, streams, kbps = data["self"], data["clients"], data["streams"], data["kbps"]
    viewers = ", ".join(f"{number} {protocol}" for protocol, number in clients["viewers"].items())
    lines = [
        f"node        {answer['server']}, pyrtmp {own['version']}, {'ready' if data['ready'] else 'draining'}",
        f"up          {duration(own['uptime'])}, process {own['pid']}, {own['mem_kbyte'] / 1024:.0f} MiB, "
        f"{own['cpu_seconds']:.0f} s of CPU",
        f"streams     {streams['live']} live, {streams['waiting_viewers']} viewers waiting for others",
        f"publishers  {clients['publishers']}, {kbps['recv_30s']:,} kbit/s in",
        f"viewers     {viewers}; {kbps['send_30s']:,} kbit/s out",
    ]
    cluster = data.get("cluster")
    if cluster is not None:
        lines += _cluster_lines(cluster)
    if cluster is not None and cluster["registry"] is not None:
        lines += ["", _nodes_text(cluster["nodes"])]
    if data["workers"]:
        lines += ["", _workers_text(data["workers"])]
    return "\n".join(lines)


def _cluster_lines(cluster: dict[str, Any]) -> list[str]:
    """What there is to say of other nodes and of recordings; nothing of what there is not."""
    lines = []
    if cluster["registry"] is not None:
        lines.append(f"load        {cluster['stress']:.0%} of what it should have")
    if cluster["pulls"]:
        lines.append(f"pulls       {cluster['pulls']} from other nodes")
    if cluster["forwards"] or cluster["forward_failures"]:
        lines.append(f"forwards    {_states(cluster['forwards'])}; {cluster['forward_failures']} failures")
    files, failures = cluster["recorded_files"], cluster["recording_failures"]
    if cluster["recordings"] or files or failures:
        lines.append(f"recordings  {_states(cluster['recordings'])}; {files} files complete, {failures} failures")
    if cluster["registry"] is not None:
        answers = "answers" if cluster["registry"]["up"] else "does not answer"
        lines.append(f"registry    {cluster['registry']['url']}, {answers}")
    return lines


def _states(numbers: dict[str, int]) -> str:
    return ", ".join(f"{number} {state}" for state, number in sorted(numbers.items())) or "none now"


def _nodes_text(nodes: Sequence[dict[str, Any]]) -> str:
    rows = [("NODE", "ROLE", "GROUP", "RTMP", "HTTP", "LOAD", "STATE")]
    rows += [
        (
            each["id"], each["role"], each["group"] or "-", each["rtmp"], each["http"] or "-", f"{each['stress']:.0%}",
            "draining" if each["draining"] else "full" if each["stress"] >= 1 else "ready",
        )
        for each in nodes
    ]  # fmt: skip
    return _table(rows)


def _workers_text(workers: Sequence[dict[str, Any]]) -> str:
    rows = [("WORKER", "PROCESS", "CPU", "MEMORY", "STREAMS", "PUBLISHERS", "VIEWERS", "KBIT/S OUT", "RESTARTS")]
    rows += [
        (
            str(each["worker"]), str(each["pid"]), f"{each['cpu_share']:.0%}", f"{each['mem_kbyte'] / 1024:.0f} MiB",
            str(each["streams_held"]), str(each["publishers"]), str(each["viewers"]), f"{each['kbps_out']:,}",
            str(each["restarts"]),
        )
        for each in workers
    ]  # fmt: skip
    return _table(rows)


def streams_text(answer: dict[str, Any]) -> str:
    """``/api/v1/streams`` for people: one line each."""
    rows = [("STREAM", "STATE", "UP", "VIDEO", "FPS", "AUDIO", "KBIT/S", "GOP", "VIEWERS", "HEALTH")]
    for each in answer["streams"]:
        video, audio = each["video"], each["audio"]
        size = f" {video['width']}x{video['height']}" if video and video["width"] else ""
        rows.append((
            each["id"], each["state"], duration(each["uptime"]) if each["publish"]["active"] else "-",
            video["codec"] + size if video else "-", f"{each['fps']:.0f}" if video else "-",
            audio["codec"] if audio else "-", f"{each['recv_kbps']:,.0f}",
            f"{each['gop_ms'] / 1000:.1f} s" if video else "-", str(each["viewers"]["total"] + each["waiting"]),
            "-" if each["health"] == "unknown" else each["health"],
        ))  # fmt: skip
    return _table(rows) if len(rows) > 1 else "No streams."


def _table(rows: Sequence[Sequence[str]]) -> str:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )


def reload_text(answer: dict[str, Any]) -> str:
    """What came of ``POST /api/v1/reload``, for people."""
    lines = []
    if answer["changed"]:
        lines.append(f"Changed: {', '.join(answer['changed'])}.")
    if answer["needs_restart"]:
        lines.append(f"Not changed until the node is stopped and started again: {', '.join(answer['needs_restart'])}.")
    return "\n".join(lines) or "The settings are the same as before."


def duration(seconds: float) -> str:
    """``3 h 05 min``, ``5 min``, ``7 s``."""
    minutes = int(seconds) // 60
    if minutes < 1:
        return f"{int(seconds)} s"
    if minutes < 60:
        return f"{minutes} min"
    if minutes < 24 * 60:
        return f"{minutes // 60} h {minutes % 60:02} min"
    return f"{minutes // 1440} d {minutes // 60 % 24} h"
