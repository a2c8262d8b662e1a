from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.recording.naming import Naming
from pyrtmp.names import StreamKey, problem

NAMES = st.from_regex(r"[A-Za-z0-9._~-]{1,12}", fullmatch=True).filter(lambda each: not problem(each, 100))
PATHS = ("{app}/{name}/%Y-%m-%dT%H-%M-%SZ", "%Y/%m/%d/{node}.{app}.{name}", "{app}-{name}_{name}/{app}")


def test_the_time_is_utc() -> None:
    begun = datetime(2026, 2, 3, 4, 5, 6, tzinfo=timezone(timedelta(hours=5)))
    name = Naming("x_{node}/{app}~{name}.%Y%m%d-%H%M%S").name(StreamKey("a/b", "cam"), "n1", begun)
    assert name == "x_n1/a/b~cam.20260202-230506"


@given(path=st.sampled_from(PATHS), app=NAMES, name=NAMES, begun=st.datetimes(datetime(2000, 1, 1)))
def test_it_knows_what_it_has_named(path: str, app: str, name: str, begun: datetime) -> None:
    naming = Naming(path)
    named = naming.name(StreamKey(app, name), "n1", begun.replace(tzinfo=UTC))
    for ending in (".flv", ".mp4", ".flv.part", "-2.mp4", "-13.flv.part", ".mp4.part"):
        key = naming.stream(named + ending)
        assert key is not None
        if path == PATHS[0]:
            assert key == StreamKey(app, name)
    for other in (named, f"{named}.txt", f"{named}.flv.part.part", f"/{named}.flv", f"{named}.flv\n"):
        assert naming.stream(other) is None


@pytest.mark.parametrize("name", ["live/cam/film.mp4", "live/cam/2026-11-21.mp4", "cam/2026-11-21T00-00-00Z.mp4"])
def test_what_it_did_not_name(name: str) -> None:
    assert Naming(PATHS[0]).stream(name) is None


@pytest.mark.parametrize(
    ("path", "why"),
    [
        ("", "empty"), ("/{app}/{name}", "relative"), ("{app}/../{name}", "dots"), ("{app}//{name}", "empty"),
        ("{app}/{name}/", "empty"), ("{name}", "{app}"), ("%Y/{app}", "{name}"), ("{app}/{name}/%Q", "'%'"),
        ("{app}/{name}/{foo}", "'{'"), ("{app}/{name} x", "' '"), ("{app}/{name}\N{BULLET}", r"'\u2022'"),
    ],
)  # fmt: skip
def test_what_cannot_be_a_path(path: str, why: str) -> None:
    with pytest.raises(ValueError) as raised:
        Naming(path)
    assert why in str(raised.value)
