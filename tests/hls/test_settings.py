from __future__ import annotations

from typing import Any

import pytest

from hls.settings import HlsSettings


def test_defaults_are_valid() -> None:
    settings = HlsSettings()
    assert (settings.fragment, settings.window, settings.container) == (2.0, 12.0, "auto")


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        ({"fragment": 0.5}, "fragment"),
        ({"fragment": float("nan")}, "fragment"),
        ({"fragment": 11.0}, "max_fragment"),
        ({"window": 1.0}, "window"),
        ({"container": "mkv"}, "container"),
        ({"linger": 0}, "linger"),
        ({"wait_seconds": -1}, "wait_seconds"),
        ({"max_bytes": 1000}, "max_bytes"),
    ],
)
def test_values_that_cannot_work_are_refused(wrong: dict[str, Any], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        HlsSettings(**wrong)
