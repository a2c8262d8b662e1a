"""What recorded files are called: in the words of the two servers, and here."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.importing.recording import Names, of_nginx_rtmp, of_srs
from cluster.recording.naming import Naming
from pyrtmp.names import StreamKey

MOMENT = "%Y%m%dT%H%M%SZ"


@pytest.mark.parametrize(
    ("there", "here"),
    [
        ("/data/[app]/[stream].flv", Names("/data", "{app}/{name}", "flv", True)),
        ("/data/[app]/[stream].mp4", Names("/data", "{app}/{name}", "mp4", True)),
        ("./rec", Names("./rec", "{app}/{name}." + MOMENT, "flv", False)),
        ("/[app]/[stream].[timestamp].flv", Names("/", "{app}/{name}." + MOMENT, "flv", False)),
        ("[app]/[stream].flv", Names(".", "{app}/{name}", "flv", True)),
        ("/data/[vhost]/[app]/[stream].flv", Names("/data", "{app}/{name}", "flv", False)),
        ("/data/[stream].flv", Names("/data", "{app}/{name}", "flv", False)),
        ("/data/one.mp4", Names("/data", "{app}/{name}/one", "mp4", False)),
        ("/data/[app]/[2006]/[01]/[02]/[stream]-[15]-[04].flv",
         Names("/data", "{app}/%Y/%m/%d/{name}-%H-%M", "flv", False)),
        ("/data/[app]/[stream]/[15].[04].[05].[999].flv", Names("/data", "{app}/{name}/%H.%M.%S", "flv", False)),
        ("/data/[app]/[stream]/[timestamp].flv", Names("/data", "{app}/{name}/" + MOMENT, "flv", False)),
    ],
)  # fmt: skip
def test_srs(there: str, here: Names) -> None:
    assert of_srs(there) == here
    Naming(here.path)


@pytest.mark.parametrize(
    ("path", "suffix", "unique", "here"),
    [
        ("/rec/live", ".flv", False, Names("/rec", "{app}/{name}", "flv", True)),
        ("/rec/live/", "_recorded.flv", False, Names("/rec", "{app}/{name}_recorded", "flv", True)),
        ("/live", ".flv", False, Names("/", "{app}/{name}", "flv", True)),
        ("/rec", ".flv", False, Names("/rec", "{app}/{name}", "flv", False)),
        ("/rec/live", ".mp4", False, Names("/rec", "{app}/{name}", "flv", False)),
        ("/rec/live", "", False, Names("/rec", "{app}/{name}", "flv", False)),
        ("/rec/live", ".flv", True, Names("/rec", "{app}/{name}-" + MOMENT, "flv", False)),
        ("/rec/live", "-%F-%T.flv", False, Names("/rec", "{app}/{name}-%Y-%m-%d-%H-%M-%S", "flv", False)),
        ("", "-%H:%M.flv", False, Names("recordings", "{app}/{name}-%H-%M", "flv", False)),
    ],
)
def test_nginx_rtmp(path: str, suffix: str, unique: bool, here: Names) -> None:
    assert of_nginx_rtmp("live", path=path, suffix=suffix, unique=unique) == here
    Naming(here.path)


def test_what_has_no_like_here_is_no_legal_path() -> None:
    for names in (of_nginx_rtmp("live", path="/rec", suffix="-%b.flv", unique=False), of_srs("/rec/[app]/[what].flv")):
        with pytest.raises(ValueError, match="should be of letters"):
            Naming(names.path)


WORDS = st.lists(
    st.sampled_from(["[app]", "[stream]", "[vhost]", "[2006]", "[05]", "[timestamp]", "[999]", "/", ".", "-", "a"])
).map("".join)


@given(WORDS, st.sampled_from(["", ".flv", ".mp4"]))
def test_streams_never_mix(words: str, ending: str) -> None:
    """Whatever the path there: two streams have files of their own here, or the path is refused."""
    try:
        naming = Naming(of_srs(words + ending).path)
    except ValueError:
        return
    now = datetime.now(UTC)
    one, other, third = (naming.name(key, "node", now) for key in (
        StreamKey("live", "a"), StreamKey("live", "b"), StreamKey("more", "a")
    ))  # fmt: skip
    assert len({one, other, third}) == 3
