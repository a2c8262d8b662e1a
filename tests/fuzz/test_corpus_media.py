"""Replays the corpus of ``fuzz_media.py``: seeds, and whatever the fuzzer found."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

HERE = Path(__file__).parent
CORPUS = sorted((HERE / "corpus" / "media").iterdir())

_spec = importlib.util.spec_from_file_location("fuzz_media", HERE / "fuzz_media.py")
assert _spec is not None and _spec.loader is not None
fuzz_media = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(fuzz_media)


def test_there_is_a_corpus() -> None:
    assert len(CORPUS) >= 20


@pytest.mark.parametrize("path", CORPUS, ids=lambda path: path.name)
def test_whole_and_cut_at_every_byte(path: Path) -> None:
    data = path.read_bytes()
    for end in range(len(data) + 1):
        fuzz_media.check(data[:end])
