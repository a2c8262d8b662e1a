from __future__ import annotations

from pathlib import Path

import pytest

from tests.cluster.tls.authority import Authority


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    """A new one for each test: files are changed."""
    return Authority(tmp_path)
