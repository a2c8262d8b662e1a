"""Every alert of config/alerts.yml fires on its fault, and none on a healthy node; by promtool, of Prometheus."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

CONFIG = Path(__file__).parents[2] / "config"
ALERTS = re.findall(r"(?m)^      - alert: (\w+)$", (CONFIG / "alerts.yml").read_text())

pytestmark = pytest.mark.skipif(shutil.which("promtool") is None, reason="prometheus is not installed")

HEALTHY = {
    'up{job="pyrtmp"}': "1x60",
    "pyrtmp_ready": "1x60",
    "pyrtmp_node_stress": "0.4x60",
    "pyrtmp_worker_busiest_share": "0.5x60",
    "pyrtmp_loop_lag_seconds": "0.002x60",
    'process_open_fds{job="pyrtmp"}': "1000x60",
    'process_max_fds{job="pyrtmp"}': "65536x60",
    'pyrtmp_viewer_failures_total{cause="not_found"}': "0+1x60",
    'pyrtmp_viewer_failures_total{cause="reset"}': "0+100x60",
    'pyrtmp_viewer_failures_total{cause="stall"}': "0x60",
    'pyrtmp_plays_total{protocol="flv"}': "0+100x60",
    'pyrtmp_viewers{protocol="flv"}': "1000x60",
    "pyrtmp_waiting_viewers": "0x60",
    'pyrtmp_first_frame_seconds_bucket{protocol="flv",le="2.5"}': "0+100x60",
    'pyrtmp_first_frame_seconds_bucket{protocol="flv",le="5.0"}': "0+100x60",
    'pyrtmp_first_frame_seconds_bucket{protocol="flv",le="+Inf"}': "0+100x60",
    'pyrtmp_first_frame_seconds_count{protocol="flv"}': "0+100x60",
    "pyrtmp_ingest_behind_seconds": "0.2x60",
    "pyrtmp_skips_total": "0+1x60",
    'pyrtmp_resent_ratio_bucket{client="flv",le="0.0"}': "0+90x60",
    'pyrtmp_resent_ratio_bucket{client="flv",le="0.05"}': "0+100x60",
    'pyrtmp_resent_ratio_bucket{client="flv",le="+Inf"}': "0+100x60",
    'pyrtmp_resent_ratio_count{client="flv"}': "0+100x60",
    "pyrtmp_registry_up": "1x60",
    "pyrtmp_pull_failures_total": "3x60",
    'pyrtmp_forwards{state="live"}': "2x60",
    'pyrtmp_forwards{state="waiting"}': "0x60",
    "pyrtmp_recording_failures_total": "1x60",
    'pyrtmp_recordings{state="recording"}': "2x60",
    'pyrtmp_recordings{state="waiting"}': "0x60",
    "pyrtmp_log_failures_total": "1x60",
    "pyrtmp_worker_restarts_total": "1x60",
    'pyrtmp_refused_total{reason="wrong_key"}': "0+5x60",
    'pyrtmp_refused_total{reason="sent_elsewhere"}': "0+1000x60",
    "pyrtmp_tls_certificate_expiry_timestamp_seconds": "2592000x60",
}
"""Values of one node, one a minute: ``start+stepxcount``."""

FAULTS: dict[str, dict[str, str]] = {
    "NodeDown": {'up{job="pyrtmp"}': "0x60"},
    "NodeDrainsForLong": {"pyrtmp_ready": "0x60"},
    "NodeIsBusy": {"pyrtmp_node_stress": "0.95x60"},
    "ProcessorIsFull": {"pyrtmp_worker_busiest_share": "0.97x60"},
    "EventLoopIsLate": {"pyrtmp_loop_lag_seconds": "0.3x60"},
    "OutOfDescriptorsSoon": {'process_open_fds{job="pyrtmp"}': "60000x60"},
    "StreamFailureRate": {'pyrtmp_viewer_failures_total{cause="stall"}': "0+20x60"},
    "ViewersWaitForPublisher": {"pyrtmp_waiting_viewers": "3x60"},
    "FirstFrameIsSlow": {'pyrtmp_first_frame_seconds_bucket{protocol="flv",le="2.5"}': "0+50x60"},
    "IngestBehindRealTime": {"pyrtmp_ingest_behind_seconds": "4x60"},
    "ViewersAreSkipped": {"pyrtmp_skips_total": "0+60x60"},
    "NetworkLosesSegments": {'pyrtmp_resent_ratio_bucket{client="flv",le="0.0"}': "0+10x60"},
    "RegistryAway": {"pyrtmp_registry_up": "0x60"},
    "PullsFail": {"pyrtmp_pull_failures_total": "0+1x60"},
    "ForwardDown": {'pyrtmp_forwards{state="waiting"}': "1x60"},
    "RecordingFails": {'pyrtmp_recordings{state="waiting"}': "1x60"},
    "MediaNotKept": {"pyrtmp_log_failures_total": "0x28 1x30"},
    "WorkerReplaced": {"pyrtmp_worker_restarts_total": "1x28 2x30"},
    "CertificateExpiresSoon": {"pyrtmp_tls_certificate_expiry_timestamp_seconds": "86400x60"},
    "ManyRefused": {'pyrtmp_refused_total{reason="wrong_key"}': "0+600x60"},
}


def run(*argv: str | Path) -> str:
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def case(name: str, series: dict[str, str], fires: list[str]) -> dict[str, Any]:
    """After half an hour these alerts fire, and no other."""
    instance = 'instance="10.0.0.11:1985"'
    return {
        "name": name,
        "interval": "1m",
        "input_series": [
            {"series": labelled.replace("{", f"{{{instance},") if "{" in labelled else f"{labelled}{{{instance}}}",
             "values": values}
            for labelled, values in series.items()
        ],
        "promql_expr_test": [
            {
                "expr": 'count by (alertname) (ALERTS{alertstate="firing"})',
                "eval_time": "30m",
                "exp_samples": [{"labels": f'{{alertname="{each}"}}', "value": 1} for each in fires],
            }
        ],
    }  # fmt: skip


def test_there_is_a_fault_for_every_alert() -> None:
    assert set(FAULTS) == set(ALERTS) and len(ALERTS) == len(set(ALERTS))
    for changed in FAULTS.values():
        assert changed.keys() <= HEALTHY.keys()


def test_promtool_takes_the_files(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("t")
    text = (CONFIG / "prometheus.yml").read_text().replace("/etc/prometheus/pyrtmp-token", str(tmp_path / "token"))
    (tmp_path / "prometheus.yml").write_text(text)
    shutil.copy(CONFIG / "alerts.yml", tmp_path)
    assert f"{len(ALERTS)} rules found" in run("promtool", "check", "config", tmp_path / "prometheus.yml")


def test_every_alert_fires_on_its_fault_alone(tmp_path: Path) -> None:
    cases = [case("healthy", HEALTHY, [])]
    cases += [case(name, HEALTHY | changed, [name]) for name, changed in FAULTS.items()]
    tests = {"rule_files": [str(CONFIG / "alerts.yml")], "evaluation_interval": "1m", "tests": cases}
    (tmp_path / "tests.yml").write_text(json.dumps(tests))  # JSON is YAML, too
    assert "SUCCESS" in run("promtool", "test", "rules", tmp_path / "tests.yml")


def test_every_alert_says_what_it_means_and_what_to_do() -> None:
    for text in (CONFIG / "alerts.yml").read_text().split("- alert: ")[1:]:
        for field in ("summary", "meaning", "action"):
            assert re.search(rf'(?m)^          {field}: ".+[^"]"$', text), (text.split()[0], field)
        assert "severity: page" in text or "severity: ticket" in text
