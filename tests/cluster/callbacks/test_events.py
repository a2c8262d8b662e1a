"""Whatever a client says of itself: no dialect is broken by it, and nothing of it becomes something else."""

from __future__ import annotations

import json
import os
from typing import Any
from urllib.parse import parse_qsl

from hypothesis import given
from hypothesis import strategies as st

from cluster.callbacks.events import MAX_TEXT, Event, Subject
from cluster.callbacks.mediamtx import Mediamtx
from cluster.callbacks.nginx_rtmp import NginxRtmp
from cluster.callbacks.srs import Srs
from pyrtmp.hooks import Request
from pyrtmp.names import StreamKey

ANYTHING = st.text(st.characters(exclude_categories=()), max_size=50)  # surrogates, too
SAID = st.dictionaries(
    st.sampled_from(["tcUrl", "pageUrl", "swfUrl", "flashVer", "User-Agent", "Referer", "authorization"]),
    ANYTHING | st.none() | st.floats() | st.lists(ANYTHING),
)


@given(said=SAID, query=ANYTHING, app=ANYTHING, protocol=st.sampled_from(["rtmp", "flv", "hls"]))
def test_hostile_text(said: dict[str, Any], query: str, app: str, protocol: str) -> None:
    request = Request("1", "192.0.2.1", protocol, app, None, query, said)
    subject = Subject.of(request)
    clean = query.encode("utf-8", "replace").decode()
    srs = json.loads(Srs("node").write(Event.CONNECT, subject).decode("ascii"))
    assert (srs["action"], srs["ip"], srs["client_id"]) == ("on_connect", "192.0.2.1", "1")
    assert srs["param"] == (f"?{clean}" if clean else "")
    mediamtx = json.loads(Mediamtx().write(Event.PLAY, subject).decode("ascii"))
    assert (mediamtx["action"], mediamtx["query"]) == ("read", clean)
    json.dumps([srs, mediamtx], ensure_ascii=False).encode()
    form = parse_qsl(
        NginxRtmp().write(Event.CONNECT, subject).decode("ascii"), keep_blank_values=True, strict_parsing=True
    )  # fmt: skip
    for name in ("call", "addr", "clientid", "app", "tcurl"):
        assert len([each for each, _ in form if each == name]) == 1
    assert dict(form)["call"] == "connect"


@given(file=ANYTHING)
def test_files_of_any_name(file: str) -> None:
    """A directory may be called in bytes that are no UTF-8."""
    subject = Subject.of(Request("", "", "", "live", StreamKey("live", "cam"), ""), file=f"/{file}")
    clean = f"/{file}".encode("utf-8", "replace").decode()
    assert json.loads(Srs("node").write(Event.DVR, subject).decode("ascii"))["file"] == clean
    form = dict(parse_qsl(NginxRtmp().write(Event.DVR, subject).decode("ascii"), keep_blank_values=True))
    assert form["path"] == os.path.abspath(clean)


def test_what_is_long_is_cut() -> None:
    request = Request("1", "192.0.2.1", "rtmp", "live", StreamKey("live", "cam"), "q" * 10**6, {"tcUrl": "x" * 10**6})
    subject = Subject.of(request)
    assert (len(subject.tc_url), len(subject.query)) == (MAX_TEXT, 8192)


def test_where_a_client_cuts_its_url_makes_no_difference() -> None:
    subject = Subject.of(Request("1", "192.0.2.1", "rtmp", "live", StreamKey("live/room", "cam"), ""))
    assert (subject.app, subject.name, subject.path) == ("live/room", "cam", "live/room/cam")
