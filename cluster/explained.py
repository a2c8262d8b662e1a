"""``pyrtmp explain``: what the API tells of one stream, in sentences.

Names, addresses and ids are of the kind that need no care; what clients and other servers said themselves is escaped.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from cluster.logs import escape
from cluster.remote import duration


def explain_text(answer: dict[str, Any]) -> str:
    """``/api/v1/explain`` for people."""
    told = answer["explain"]
    lines = [("stream", f"{told['stream']}, asked at {escape(answer['server'])}"), ("state", _state(told["facts"]))]
    for part in (_origin, _viewers, _passed_on, _recorded, _health, _registry, _refusals):
        lines += part(told)
    return "\n".join(f"{title:<11} {text}".rstrip() for title, text in lines)


def _state(facts: dict[str, Any] | None) -> str:
    if facts is None or facts["state"] == "ended":
        return "nobody publishes it here, and nobody waits for it"
    waiting = _count(facts["waiting"] + facts["viewers"]["total"], "viewer")
    if facts["state"] == "awaited":
        return f"nobody publishes it here by now; {waiting} waiting"
    if facts["state"] == "gone":
        return f"its publisher left; {waiting} waiting for it to come back"
    video, audio = facts["video"], facts["audio"]
    size = f" {video['width']}x{video['height']}" if video and video["width"] else ""
    media = [video["codec"] + size if video else "no picture", audio["codec"] if audio else "no sound"]
    return f"live for {duration(facts['uptime'])}: {', '.join(media)}, {facts['recv_kbps']:,.0f} kbit/s"


def _origin(told: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Who publishes it, or where it is fetched."""
    publisher = told["publisher"]
    if publisher is not None:
        who = f"node {publisher['node']} passes it on" if publisher["node"] else "published"
        agent = f" with {escape(publisher['agent'])}" if publisher["agent"] and not publisher["node"] else ""
        yield "from", f"{who} from {escape(publisher['ip'])}{agent}, for {duration(publisher['alive'])}"
        yield "", _ids(publisher)
    for pull in told["pulls"]:
        if pull["upstream"] is None:
            yield "from", f"looked for at other nodes, for {duration(pull['seconds'])}; none has it"
        else:
            node = f"node {pull['node']} at " if pull["node"] else ""
            changes = f", from the {_ordinal(pull['changes'] + 1)} upstream" if pull["changes"] else ""
            yield "from", f"fetched from {node}{escape(pull['upstream'])}, for {duration(pull['seconds'])}{changes}"
        if pull["delay"] is not None:
            yield "delay", f"{pull['delay'] * 1000:.0f} ms later than where it is published"
        if pull["error"]:
            yield "", f"last trouble: {escape(pull['error'])}"
        yield "", f"id {pull['id']}"


def _viewers(told: dict[str, Any]) -> Iterator[tuple[str, str]]:
    facts = told["facts"]
    if facts is not None:
        viewers = facts["viewers"]
        kinds = [f"{number} {protocol}" for protocol, number in viewers.items() if protocol != "total" and number]
        yield "viewers", f"{', '.join(kinds) or 'none'}; {facts['kbps']['send_30s']:,} kbit/s out"
    for number, node in enumerate(told["nodes"]):
        what = "fetches it" if node["role"] == "play" else "waits for it"
        yield (
            "" if number else "nodes",
            f"{node['node']} {what} from here, at {escape(node['ip'])}, for {duration(node['alive'])}; {_ids(node)}",
        )


def _ids(client: dict[str, Any]) -> str:
    there = f" ({client['session']} there)" if client["session"] else ""
    return f"id {client['id']}{there}"


def _passed_on(told: dict[str, Any]) -> Iterator[tuple[str, str]]:
    for number, forward in enumerate(told["forwards"]):
        state = forward["state"]
        text = f"to {escape(forward['target'])}: {state} for {duration(forward['seconds'])}"
        if forward["error"]:
            text += f", {'once' if state == 'live' else 'since'}: {escape(forward['error'])}"
        yield "" if number else "forwards", text


def _recorded(told: dict[str, Any]) -> Iterator[tuple[str, str]]:
    for each in told["recordings"]:
        state, files = each["state"], each["files"]
        text = f"{state} for {duration(each['seconds'])}"
        if each["file"]:
            text += f": {escape(each['file'])} has {duration(each['media_seconds'])}, {each['bytes'] / 2**20:,.0f} MiB"
        if files:
            text += f"; {files} {'file is' if files == 1 else 'files are'} complete"
        if each["dropped"]:
            text += f"; {each['dropped']:,} messages left out"
        yield "recording", text
        if each["error"]:
            yield "", f"last trouble: {escape(each['error'])}"


def _health(told: dict[str, Any]) -> Iterator[tuple[str, str]]:
    facts = told["facts"]
    if facts is None or facts["health"] == "unknown":
        return
    yield "health", facts["health"]
    for finding in facts["doctor"]:
        yield "", f"{finding['severity']}: {escape(finding['finding'])}. {finding['effect']}"


def _registry(told: dict[str, Any]) -> Iterator[tuple[str, str]]:
    registry = told["registry"]
    if registry is None:
        return
    owner, copies = registry["owner"], registry["copies"]
    away = "" if registry["up"] else "; it does not answer, so this is the last that is known"
    if owner is None and not copies:
        yield "registry", f"knows no node that has it{away}"
        return
    if owner is not None:
        yield "registry", f"published to node {_place(owner)}, epoch {owner['epoch']}{away}"
    for copy in copies:
        yield "registry" if owner is None else "", f"a copy at node {_place(copy)}"


def _place(holder: dict[str, Any]) -> str:
    group = f", group {holder['group']}" if holder["group"] else ""
    return f"{holder['node']} ({escape(holder['rtmp'])}{group})"


def _refusals(told: dict[str, Any]) -> Iterator[tuple[str, str]]:
    if not told["refusals"]:
        yield "refused", "nobody that is remembered"
    for number, each in enumerate(told["refusals"]):
        times = f", {each['times']} times so far" if each["times"] > 1 else ""
        yield (
            "" if number else "refused",
            f"{duration(each['seconds'])} ago, to {each['what']}, {escape(each['address'])}{times}: "
            f"{escape(each['code'])}: {escape(each['why'])}",
        )


def _count(number: int, what: str) -> str:
    return f"1 {what} is" if number == 1 else f"{number} {what}s are"


def _ordinal(number: int) -> str:
    return {2: "second", 3: "third"}.get(number, f"{number}th")
