"""Replay the inputs kept for ``fuzz_chunk.py``, which lists the permitted exceptions.  Needs no fuzzer."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest

HERE = Path(__file__).parent
CORPUS = sorted((HERE / "corpus" / "chunk").iterdir())


@pytest.mark.parametrize("path", CORPUS, ids=lambda path: path.name)
def test_replay(path: Path) -> None:
    runpy.run_path(str(HERE / "fuzz_chunk.py"))["check"](path.read_bytes())
