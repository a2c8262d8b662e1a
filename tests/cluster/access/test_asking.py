from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.access.asking import MAX_PARAMETERS, MAX_QUERY, Credentials


@pytest.mark.parametrize(
    ("query", "authorization", "shown"),
    [
        ("", "", Credentials()),
        ("x=1&y", "", Credentials()),
        ("key=abc", "", Credentials(key="abc")),
        ("vhost=x&token=a.b.c", "", Credentials(token="a.b.c")),
        ("expires=5&ip=%3A%3A1&sign=s", "", Credentials(expires="5", ip="::1", sign="s")),
        ("", "Bearer abc", Credentials(key="abc")),
        ("", "bearer  a.b.c ", Credentials(token="a.b.c")),
        ("key=abc", "Bearer abc", Credentials(key="abc")),
        ("", "Basic YTpi", Credentials()),
        ("", "Bearer", Credentials()),
        ("key=a&key=a", "", Credentials(key="a")),
        ("key=a&key=b", "", Credentials(problem="key is given twice")),
        ("token=a.b.c", "Bearer d.e.f", Credentials(problem="token is given twice")),
        ("problem=x", "", Credentials()),
        ("a" * (MAX_QUERY + 1), "", Credentials(problem="the query is too long")),
        ("a=1&" * (MAX_PARAMETERS + 1), "", Credentials(problem="the query has too many parameters")),
    ],
)
def test_what_a_client_shows(query: str, authorization: str, shown: Credentials) -> None:
    assert Credentials.read(query, authorization) == shown
    assert bool(shown) == (shown.key + shown.token + shown.sign + shown.problem != "")


@given(st.text(), st.text())
def test_anything_may_be_shown(query: str, authorization: str) -> None:
    Credentials.read(query, authorization)
