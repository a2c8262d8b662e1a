from __future__ import annotations

import pytest

from cluster.forward import parse_target
from pyrtmp import StreamKey

KEY = StreamKey("live/a", "cam")


@pytest.mark.parametrize(
    "text, url, label",
    [
        ("10.0.0.2:1935", "rtmp://10.0.0.2:1935/live/a/cam", "rtmp://10.0.0.2:1935/live/a/cam"),
        ("[::1]:1936", "rtmp://[::1]:1936/live/a/cam", "rtmp://[::1]:1936/live/a/cam"),
        ("some-host.example:1", "rtmp://some-host.example:1/live/a/cam", "rtmp://some-host.example:1/live/a/cam"),
        ("rtmp://h/in", "rtmp://h:1935/in/cam", "rtmp://h:1935/in/cam"),
        ("rtmp://h/in/", "rtmp://h:1935/in/cam", "rtmp://h:1935/in/cam"),
        ("rtmps://h/in?token=s", "rtmps://h:443/in/cam?token=s", "rtmps://h:443/in/cam"),
        ("rtmps://h:1/{app}", "rtmps://h:1/live/a/cam", "rtmps://h:1/live/a/cam"),
        ("rtmp://[::1]/x/{app}/{name}-copy", "rtmp://[::1]:1935/x/live/a/cam-copy", "rtmp://[::1]:1935/x/live/a/cam-copy"),
        ("rtmp://h/in/abcd-efgh", "rtmp://h:1935/in/abcd-efgh", "rtmp://h:1935/in/***"),
        ("rtmp://h/in/{name}?k={app}.s", "rtmp://h:1935/in/cam?k=live/a.s", "rtmp://h:1935/in/cam"),
    ],
)
def test_target(text: str, url: str, label: str) -> None:
    destination = parse_target(text).resolve(KEY)
    assert destination.url == url
    assert destination.label == label
    assert destination.place == url.partition("?")[0]


@pytest.mark.parametrize(
    "text, reason",
    [
        ("", "host:port"),
        ("host", "host:port"),
        ("host:", "host:port"),
        ("::1:1935", "host:port"),
        ("host:1935/live", "host:port"),
        ("{app}:1935", "host:port"),
        ("host:0", "1 to 65535"),
        ("host:65536", "1 to 65535"),
        ("http://h/live", "rtmp://"),
        ("rtmp://", "host and port"),
        ("rtmp:///live/cam", "host and port"),
        ("rtmp://h:x/live", "host and port"),
        ("rtmp://h:0/live", "host and port"),
        ("rtmp://h:99999/live", "host and port"),
        ("rtmp://[::1/live", "host and port"),
        ("rtmp://{name}/live", "host and port"),
        ("rtmp://h", "no application"),
        ("rtmp://h/?key=s", "no application"),
        ("rtmp://h/live//cam", "empty part"),
        ("rtmp://u:secret@h/live", "not supported"),
        ("rtmp://h/live/cam#secret", "%23"),
        ("rtmp://h/{app}/{stream}", "placeholders"),
        ("rtmp://h/live/{name", "placeholders"),
        ("rtmp://h/live?key={secret}", "placeholders"),
        (" rtmp://h/live", "blank"),
        ("rtmp://h/li\nve", "blank"),
        ("rtmp://h/lïve", "ASCII"),
    ],
)
def test_bad_target(text: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason) as caught:
        parse_target(text)
    assert "secret" not in str(caught.value)


def test_keys_are_not_shown() -> None:
    target = parse_target("rtmp://h/live/secret1?key=secret2")
    shown = f"{target} {target!r} {target.resolve(KEY)!r} {target.resolve(KEY).label}"
    assert "secret" not in shown
    assert str(target) == "rtmp://h:1935/live/***"
    assert str(parse_target("rtmp://h/live?key=secret")) == "rtmp://h:1935/live/{name}"
