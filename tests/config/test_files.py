"""The files that operators start from are right, for the programs that read them."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from cluster.cli import main
from cluster.config import load
from config.cluster import NODES, Cluster

CONFIG = Path(__file__).parents[2] / "config"
FILES = sorted(path.name for path in CONFIG.glob("*.toml"))


def program(name: str) -> str:
    found = shutil.which(name) or shutil.which(name, path="/usr/sbin")
    if found is None:
        pytest.skip(f"{name} is not installed")
    return found


def run(*argv: str | Path) -> str:
    """What it says about a file that it should be content with."""
    done = subprocess.run(argv, capture_output=True, text=True, timeout=30)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.fixture
def cluster(tmp_path: Path) -> Cluster:
    """Written, not started."""
    cluster = Cluster(tmp_path, publish=21935, watch=28080)
    cluster.write()
    return cluster


@pytest.mark.parametrize("name", FILES)
def test_pyrtmp_takes_it(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", str(CONFIG / name)]) == 0
    assert "fine" in capsys.readouterr().out


@pytest.mark.parametrize("role", ["origin", "edge"])
@pytest.mark.parametrize("name", ["source-manager.toml", "two-centres-east.toml", "two-centres-west.toml"])
def test_these_are_for_both_roles(name: str, role: str) -> None:
    assert load(CONFIG / name, [f"node.role={role}"], {}).node.role == role


def test_haproxy_takes_it() -> None:
    text = run(program("haproxy"), "-c", "-f", CONFIG / "haproxy.cfg")
    assert "valid" in text and "WARNING" not in text, text


def test_nginx_takes_it(cluster: Cluster) -> None:
    program("nginx")
    text = run(*cluster.command("nginx"), "-t")
    assert "successful" in text and "warn" not in text, text


@pytest.mark.parametrize("name", ["pyrtmp.service", "pyrtmp@.service"])
def test_systemd_takes_it(tmp_path: Path, name: str) -> None:
    """As it is, and as the template that its first lines tell to make of it; with a program that is there."""
    unit = tmp_path / name
    text = (CONFIG / "pyrtmp.service").read_text().replace("/opt/pyrtmp/.venv/bin/pyrtmp", "/bin/true")
    unit.write_text(text.replace("node.toml", "%i.toml") if "@" in name else text)
    analyze = program("systemd-analyze")
    assert run(analyze, "verify", tmp_path / name.replace("@", "@edge") if "@" in name else unit) == ""
    # 3.0 of 10, the most exposed; offline: no systemd has to run.
    assert "OK" in run(analyze, "security", "--offline=yes", "--threshold=30", unit)


def test_systemd_waits_until_the_node_has_drained() -> None:
    text = (CONFIG / "pyrtmp.service").read_text()
    (stop,) = re.findall(r"^TimeoutStopSec=(\d+)s$", text, re.MULTILINE)
    for name in FILES:
        assert float(stop) >= load(CONFIG / name, [], {}).node.drain_seconds + 5, name


def test_the_files_of_the_cluster_fit_together(cluster: Cluster) -> None:
    here = {name: load(node.file, [], {}) for name, node in cluster.nodes.items()}
    masters = [cluster.nodes[name] for name in NODES if name.startswith("master")]
    slaves = [cluster.nodes[name] for name in NODES if name.startswith("slave")]
    for name, config in here.items():
        forwards = [f"127.0.0.1:{node.rtmp}" for node in slaves] if name.startswith("master") else []
        assert list(config.forward.to) == forwards
        origins = [node.rtmp for node in (*masters, *slaves)] if name.startswith("edge") else []
        assert [each.port for each in config.edge.origins] == origins
        assert config.rtmp.proxy_from == (("127.0.0.2",) if name.startswith("master") else ())
        assert config.http.trust_forwarded_from == (("127.0.0.1",) if name.startswith("edge") else ())
        assert config.registry.url is not None
        assert config.registry.url.get_secret_value() == f"redis://127.0.0.1:{cluster.redis}/0"
    haproxy = (cluster.directory / "haproxy.cfg").read_text()
    assert "source 127.0.0.2" in haproxy and "send-proxy-v2" in haproxy
    for text in (haproxy, (cluster.directory / "nginx.conf").read_text()):
        assert "10.0.0." not in text


def test_every_file_is_told_of() -> None:
    readme = (CONFIG / "README.md").read_text()
    names = {path.name for path in CONFIG.iterdir() if path.is_file()} - {"README.md"}
    assert {name for name in names if f"({name})" not in readme} == set()
    assert set(re.findall(r"\]\(([\w.-]+)\)", readme)) <= names
