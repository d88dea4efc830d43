"""Figures, one self-contained HTML page and run.json of an experiment. Needs matplotlib.

Measured values are marks and predictions lines.
"""

from __future__ import annotations

import html
import json
import platform
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from trainer.report.page import COLOURS, DASHES, MARKS, page_html, picture_html, svg, table_html

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True, slots=True, kw_only=True)
class Series:
    """Marks where measured, a line where predicted; either may be missing."""

    label: str
    x: Sequence[float]
    measured: Sequence[float] | None = None
    predicted: Sequence[float] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Plot:
    name: str
    """Of its file, without an ending."""
    title: str
    x_label: str
    y_label: str
    series: tuple[Series, ...]
    caption: str
    log_x: bool = False
    log_y: bool = False
    line_at: float | None = None
    """A vertical line, such as lambda = 1."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    title: str
    settings: dict[str, Any]
    heads: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    notes: tuple[str, ...]
    plots: tuple[Plot, ...]
    results: tuple[dict[str, Any], ...]
    """What run.json keeps of each outcome."""


def draw(plot: Plot) -> Figure:
    """No global state: a figure of its own."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 4.8), layout="constrained")
    axes = figure.add_subplot()
    for number, series in enumerate(plot.series):
        style = number % len(COLOURS)
        colour, label = COLOURS[style], series.label
        if series.predicted is not None:
            axes.plot(series.x, series.predicted, color=colour, linestyle=DASHES[style], linewidth=1.4, label=label)
            label = "_" + label  # once in the legend
        if series.measured is not None:
            fill = colour if series.predicted is None else "none"
            axes.plot(
                series.x, series.measured, MARKS[style], color=colour, markerfacecolor=fill, markersize=5, label=label
            )
    if plot.line_at is not None:
        axes.axvline(plot.line_at, color="#777777", linewidth=0.8)
    if plot.log_x:
        axes.set_xscale("symlog" if min(min(s.x) for s in plot.series) <= 0 else "log", **_linear_to_one(plot))
    if plot.log_y:
        axes.set_yscale("log")
    axes.set(title=plot.title, xlabel=plot.x_label, ylabel=plot.y_label)
    axes.grid(visible=True, color="#dddddd", linewidth=0.5)
    figure.legend(loc="outside lower center", ncols=2, fontsize=8, frameon=False)
    return figure


def _linear_to_one(plot: Plot) -> dict[str, float]:
    return {"linthresh": 1.0} if min(min(s.x) for s in plot.series) <= 0 else {}


def write(page: Page, folder: Path) -> None:
    """folder/run.json, report.html and each plot as .svg. Raises OSError."""
    pictures = []
    for plot in page.plots:
        picture = svg(draw(plot))
        (folder / f"{plot.name}.svg").write_bytes(picture)
        pictures.append(picture)
    (folder / "report.html").write_text(_html(page, pictures), encoding="utf-8")
    record = {
        "format": "potstill-ntk",
        "version": 1,
        "ended": datetime.now(UTC).isoformat(timespec="seconds"),
        "title": page.title,
        "settings": page.settings,
        "environment": environment(),
        "provenance": "measured: networks trained here in float64; predicted: closed form with the kernel at the start",
        "results": page.results,
        "notes": page.notes,
        "figures": {plot.name: [_plain(series) for series in plot.series] for plot in page.plots},
    }
    (folder / "run.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


def environment() -> dict[str, str]:
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": version("numpy"),
        "machine": platform.machine(),
        "command": " ".join(["potstill", *sys.argv[1:]]),
    }


def _plain(series: Series) -> dict[str, Any]:
    lists = {"x": series.x, "measured": series.measured, "predicted": series.predicted}
    rounded = {key: None if v is None else [float(f"{x:.6g}") for x in np.asarray(v)] for key, v in lists.items()}
    return {"label": series.label, **rounded}


def _html(page: Page, pictures: Sequence[bytes]) -> str:
    figures = "\n".join(
        picture_html(picture, title=plot.title, caption=plot.caption)
        for plot, picture in zip(page.plots, pictures, strict=True)
    )
    settings = html.escape(json.dumps(page.settings))
    notes = "".join(f"<p>{html.escape(note)}</p>" for note in page.notes)
    return page_html(
        page.title,
        f"""<p><code>{html.escape(environment()["command"])}</code><br><code>{settings}</code></p>
<p>Marks are measured on trained networks, lines are predicted from the kernel at the start. An error is
|f &minus; f predicted| / |f predicted &minus; f(0)|.</p>
{table_html(page.heads, page.rows)}{notes}
{figures}""",
    )
