"""Replay the inputs kept for ``fuzz_proxy.py``, which lists the permitted exceptions.  Needs no fuzzer."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest

HERE = Path(__file__).parent
CORPUS = sorted((HERE / "corpus" / "proxy").iterdir())


@pytest.mark.parametrize("path", CORPUS, ids=lambda path: path.name)
def test_replay(path: Path) -> None:
    runpy.run_path(str(HERE / "fuzz_proxy.py"))["check"](path.read_bytes())
