"""What the files in the repository must not hold, and what they promise each other."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# Registries and mirrors belong to the machine's settings, not to this repository; nor do the places where somebody
# keeps a clone.  Written in two parts, so that this file is not found.
FORBIDDEN = [
    first + second
    for first, second in (
        ("py", "pi.org"),
        ("python", "hosted.org"),
        ("npm", "js.org"),
        ("npm", "js.com"),
        ("yarn", "pkg.com"),
        ("un", "pkg.com"),
        ("jsde", "livr.net"),
        ("deb.deb", "ian.org"),
        ("security.deb", "ian.org"),
        ("snapshot.deb", "ian.org"),
        ("archive.deb", "ian.org"),
        ("cra", "tes.io"),
        ("proxy.go", "lang.org"),
        ("docker", "hub"),
        ("docker", ".io/"),
        ("artif", "actory"),
        ("--index", "-url"),
        ("--extra-index", "-url"),
        ("/wo", "rk/main"),
        ("/wo", "rk/shared"),
        ("/ro", "ot/"),
    )
]


def tracked() -> list[Path]:
    """The files in git; skips where there is no git or no clone."""
    if shutil.which("git") is None:
        pytest.skip("git is not installed")
    # A clone may belong to somebody else than who tests it.
    done = subprocess.run(
        ["git", "-c", "safe.directory=*", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=False
    )
    if done.returncode:
        pytest.skip("not a git clone")
    return [path for name in done.stdout.decode().split("\0") if name and (path := ROOT / name).is_file()]


def findings(text: str) -> list[str]:
    lowered = text.lower()
    return [word for word in FORBIDDEN if word in lowered]


def test_what_is_looked_for_is_found() -> None:
    assert findings("see https://PyPI" + ".org/x") == ["pypi" + ".org"]
    assert findings(Path(__file__).read_text()) == []


def test_no_registry_and_no_workplace_in_any_file() -> None:
    files = tracked()
    assert ROOT / "pyproject.toml" in files
    found = {str(path.relative_to(ROOT)): findings(path.read_text("utf-8", "replace")) for path in files}
    assert {name: words for name, words in found.items() if words} == {}


@pytest.mark.parametrize("name", ["requirements.lock", "requirements-dev.lock", "requirements-fuzz.lock"])
def test_locks_are_exact_and_name_no_index(name: str) -> None:
    text = (ROOT / name).read_text()
    assert findings(text) == [] and "://" not in text
    requirements = text.replace("\\\n", "").splitlines()
    packages = [line for line in requirements if line and not line.lstrip().startswith("#")]
    assert len(packages) > 20
    for line in packages:
        assert re.match(r"[a-z0-9-]+==\S+ +(; [^#]+? +)?--hash=sha256:[0-9a-f]{64}\b", line), line


def test_the_commands_of_the_readme_exist() -> None:
    readme = (ROOT / "README.md").read_text()
    targets = re.findall(r"^([a-z0-9]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    named = re.findall(r"\bmake ([a-z]+)\b", "\n".join(re.findall(r"`[^`]+`|```.*?```|^    .*$", readme, re.M | re.S)))
    assert {"run", "test"} <= set(named)
    assert set(named) <= set(targets)
