"""What a benchmark hands back: a table and bars as Markdown, every run as JSON, a plot as PNG."""

from __future__ import annotations

import json
import os
import platform
import shlex
import statistics
import subprocess
import sys
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Row = dict[str, Any]
"""Column name -> number, text or None (not measured)."""


@dataclass(frozen=True, slots=True)
class Bar:
    """A promise: the value must not be above the limit.  ``None`` was not measured in this run."""

    name: str
    value: float | None
    limit: float
    unit: str = ""

    @property
    def verdict(self) -> str:
        if self.value is None:
            return "not measured"
        return "pass" if self.value <= self.limit else "FAIL"


@dataclass(slots=True)
class Report:
    """One benchmark's outcome.

    ``rows`` is the table (medians, one row per case), ``runs`` every repetition with all that was measured,
    ``series`` what only the plot needs.
    """

    benchmark: str
    parameters: Row
    rows: list[Row]
    bars: list[Bar] = field(default_factory=list)
    runs: list[Row] = field(default_factory=list)
    series: Row = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    date: str = field(default_factory=lambda: datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S UTC"))
    command: str = field(default_factory=lambda: shlex.join(["python", "-m", "benchmarks", *sys.argv[1:]]))
    machine: Row = field(default_factory=lambda: _machine())
    commit: str = field(default_factory=lambda: _commit())

    @property
    def has_failed(self) -> bool:
        return any(bar.verdict == "FAIL" for bar in self.bars)

    def markdown(self) -> str:
        facts = [
            f"- command: `{self.command}`",
            f"- commit: {self.commit}",
            f"- date: {self.date}",
            "- machine: " + ", ".join(f"{key} {value}" for key, value in self.machine.items()),
            "- parameters: " + ", ".join(f"{key} {_cell(value)}" for key, value in self.parameters.items()),
        ]
        parts = [f"# {self.benchmark}", "\n".join(facts), _table(self.rows)]
        if self.bars:
            parts.append(_table([
                {"bar": bar.name, "measured": bar.value, "at most": bar.limit, "unit": bar.unit, "": bar.verdict}
                for bar in self.bars
            ]))
        if self.notes:
            parts.append("\n".join(f"- {note}" for note in self.notes))
        return "\n\n".join(parts) + "\n"

    def save(self, directory: Path, plot: Callable[[Report, Path], None]) -> list[Path]:
        """Write ``<date>-<benchmark>.md``, ``.json`` and ``.png``; return the three paths."""
        directory.mkdir(parents=True, exist_ok=True)
        stem = f"{self.date[:16].replace(':', '').replace(' ', '-')}-{self.benchmark}"
        paths = [directory / f"{stem}.{kind}" for kind in ("md", "json", "png")]
        paths[0].write_text(self.markdown())
        document = {
            **asdict(self), "bars": [{**asdict(bar), "verdict": bar.verdict} for bar in self.bars]}
        paths[1].write_text(json.dumps(document, indent=1) + "\n")
        plot(self, paths[2])
        return paths


def medians(runs: Iterable[Row], worst: Collection[str] = ()) -> list[Row]:
    """One row per ``case``, in order of first appearance.

    Numbers become the median of those measured, or the highest in the columns named by ``worst``; of anything else
    the first that is not None is kept.
    """
    groups: dict[str, list[Row]] = {}
    for run in runs:
        groups.setdefault(run["case"], []).append(run)
    return [
        {column: _summary([run[column] for run in group], max if column in worst else statistics.median)
         for column in group[0]}
        for group in groups.values()
    ]


def find(rows: Iterable[Row], **wanted: object) -> Row | None:
    """The first row that has these values."""
    return next((row for row in rows if all(row.get(key) == value for key, value in wanted.items())), None)


def ratio(above: float | None, below: float | None) -> float | None:
    """``above / below``, or None when either was not measured."""
    return above / below if above is not None and below else None


def figure(panels: int, *, width: float = 6.0, height: float = 4.5) -> tuple[Figure, list[Axes]]:
    """A figure of panels side by side, drawn without a display."""
    import matplotlib  # here and not above: slow to import, and load generators never draw

    matplotlib.use("Agg")
    from matplotlib import pyplot

    made, axes = pyplot.subplots(1, panels, figsize=(width * panels, height), layout="constrained", squeeze=False)
    return made, list(axes[0])


def finish(made: Figure, report: Report, path: Path) -> None:
    """Title the figure with what is needed to know where it comes from, and save it."""
    from matplotlib import pyplot

    made.suptitle(f"{report.benchmark}: {report.date}, {report.commit}, {report.machine['cpu']}", fontsize=10)
    made.savefig(path, dpi=110)
    pyplot.close(made)


def draw_bars(
    axes: Axes, title: str, labels: Sequence[str], values: Sequence[float | None], *, limit: float | None = None,
    logarithmic: bool = False,
) -> None:
    """Horizontal bars, first at the top, each with its value; ``limit`` as a dashed line."""
    places = range(len(labels))
    numbers = [value or 0.0 for value in values]
    colours = ["tab:blue" if label.startswith("pyrtmp") else "tab:gray" for label in labels]
    drawn = axes.barh(places, numbers, color=colours)
    axes.bar_label(drawn, [_cell(value) for value in values], padding=3)
    axes.set_yticks(places, labels)
    axes.invert_yaxis()
    axes.margins(x=0.15)
    if logarithmic:
        axes.set_xscale("log")
    if limit is not None:
        axes.axvline(limit, color="tab:red", linestyle="--", linewidth=1)
    axes.set_title(title, fontsize=10)


def _summary(values: list[Any], of_numbers: Callable[[list[float]], float]) -> Any:
    present = [value for value in values if value is not None]
    if present and all(isinstance(value, int | float) for value in present):
        return of_numbers(present)
    return present[0] if present else None


def _table(rows: Sequence[Row]) -> str:
    if not rows:
        return "(nothing was measured)"
    columns = list(rows[0])
    cells = [columns, *([_cell(row.get(column)) for column in columns] for row in rows)]
    widths = [max(len(line[index]) for line in cells) for index in range(len(columns))]
    is_number = [any(isinstance(row.get(column), int | float) for row in rows) for column in columns]
    lines = [
        "| " + " | ".join(
            cell.rjust(width) if number else cell.ljust(width)
            for cell, width, number in zip(line, widths, is_number, strict=True)) + " |"
        for line in cells
    ]
    rule = "|" + "|".join(
        "-" * (width + 1) + (":" if number else "-") for width, number in zip(widths, is_number, strict=True)) + "|"
    return "\n".join([lines[0], rule, *lines[1:]])


def _cell(value: object) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"
    return str(value)


def _machine() -> Row:
    cpu = platform.processor() or platform.machine()
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            cpu = line.partition(":")[2].strip()
            break
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return {
        "cpu": cpu, "cores": os.cpu_count(), "memory": f"{memory:.0f} GiB",
        "kernel": platform.release(), "python": platform.python_version(),
    }  # fmt: skip


def _commit() -> str:
    def git(*words: str) -> str:
        done = subprocess.run(
            ["git", "-C", str(Path(__file__).parent), *words], capture_output=True, text=True, check=False)
        return done.stdout.strip() if done.returncode == 0 else ""

    commit = git("rev-parse", "--short", "HEAD") or "no commit"
    return f"{commit} with local changes" if git("status", "--porcelain", "--untracked-files=no") else commit
