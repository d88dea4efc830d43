"""The figures of a record: score against rounds, bytes, joules and seconds; energy and bytes by where they went.

A method has one colour, mark and dash in all of them. Several seeds of a curve are drawn as their mean with a band from
the lowest to the highest. Letters: r rounds, s seeds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from trainer.record.reach import total_bytes, total_joules
from trainer.record.run import Curve, Event, Point, Record
from trainer.report.page import COLOURS, DASHES, MARKS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

HATCHES = ("", "///", "...")
"""Of a bar's parts, for print in grey."""
ENERGY = ("compute", "radio", "idle")
LAYERS = ("payload", "mqtt", "tls", "tcpip", "link")
MARKED_EVERY = 12
"""About so many marks a line."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    name: str
    """Of its file, without an ending."""
    title: str
    caption: str
    figure: Figure


@dataclass(frozen=True, slots=True, kw_only=True)
class Axis:
    name: str
    label: str
    of: Callable[[Point], float | None]
    caption: str
    log: bool = False


AXES = (
    Axis(name="rounds", label="round", of=lambda point: point.round + 1, caption="at equal rounds"),
    Axis(
        name="bytes",
        label="bytes sent and received, a device",
        of=total_bytes,
        caption="for the bytes it cost, over the layers that are known (logarithmic)",
        log=True,
    ),
    Axis(name="joules", label="joules, a device", of=total_joules, caption="for the energy it cost"),
    Axis(name="seconds", label="seconds", of=lambda point: point.seconds, caption="for the time it took"),
)


def pictures(record: Record) -> Iterator[Picture]:
    """Those for which the record holds the figures."""
    styles = _styles(record)
    for axis in AXES:
        figure = _score(record, axis, styles)
        if figure is not None:
            yield Picture(
                name=f"{record.score}-{axis.name}",
                title=f"{record.score} against {axis.name}",
                caption=f"Mean {record.score} over devices {axis.caption}."
                f"{_bands(record)}{_numbered(record) if axis.name in {'rounds', 'seconds'} else ''}",
                figure=figure,
            )
    energy = _bars(record, _energy_parts, "joules, a device", ENERGY)
    if energy is not None:
        yield Picture(
            name="energy",
            title="energy by where it went",
            caption="Joules of a device over the whole run, mean over devices.",
            figure=energy,
        )
    layers = _bars(record, _layer_parts, "share of a device's bytes", LAYERS, share=True)
    if layers is not None:
        yield Picture(
            name="layers",
            title="bytes by layer",
            caption="What a device's bytes were, both directions over the whole run: "
            "how much of what a method puts on the air is its message.",
            figure=layers,
        )


def splits(record: Record) -> list[str]:
    return list(dict.fromkeys(curve.split for curve in record.curves))


def _styles(record: Record) -> dict[str, int]:
    return {name: number % len(COLOURS) for number, name in enumerate(dict.fromkeys(c.name for c in record.curves))}


def _bands(record: Record) -> str:
    return " Bands: lowest to highest seed." if len({curve.seed for curve in record.curves}) > 1 else ""


def _numbered(record: Record) -> str:
    return " Numbered lines: events, listed below." if record.events else ""


def _score(record: Record, axis: Axis, styles: Mapping[str, int]) -> Figure | None:
    shown = [split for split in splits(record) if any(True for _ in _lines(record, split, axis))]
    if not shown:
        return None
    figure = _figure(len(shown))
    for axes, split in zip(figure.subplots(1, len(shown), squeeze=False, sharey=True)[0], shown, strict=True):
        for name, x, y in _lines(record, split, axis):
            _draw(axes, x, y, styles[name], name)
        _mark_events(axes, record.events, axis.name)
        if axis.log:
            axes.set_xscale("log")
        axes.set(title=split, xlabel=axis.label)
        axes.grid(visible=True, color="#dddddd", linewidth=0.5)
    figure.axes[0].set_ylabel(record.score)
    _legend(figure)
    return figure


def _lines(record: Record, split: str, axis: Axis) -> Iterator[tuple[str, NDArray[np.float64], NDArray[np.float64]]]:
    """name, x (r,), y (s, r) of each curve that knows this axis; the seeds are cut to the rounds that all have."""
    groups: dict[str, list[Curve]] = {}
    for curve in record.curves:
        if curve.split == split and curve.points:
            groups.setdefault(curve.name, []).append(curve)
    for name, curves in groups.items():
        rounds = min(len(curve.points) for curve in curves)
        x = [[axis.of(point) for point in curve.points[:rounds]] for curve in curves]
        if any(value is None for row in x for value in row):
            continue
        if axis.log and not any(value for row in x for value in row):
            continue  # what costs nothing has no place on a logarithm
        y = [[point.score.mean for point in curve.points[:rounds]] for curve in curves]
        yield name, np.mean(np.array(x, float), axis=0), np.array(y)


def _draw(axes: Axes, x: NDArray[np.float64], y: NDArray[np.float64], style: int, name: str) -> None:
    colour = COLOURS[style]
    axes.plot(
        x,
        y.mean(axis=0),
        color=colour,
        linestyle=DASHES[style],
        marker=MARKS[style],
        markevery=max(1, len(x) // MARKED_EVERY),
        markersize=4,
        linewidth=1.4,
        label=name,
    )
    if len(y) > 1:
        axes.fill_between(x, y.min(axis=0), y.max(axis=0), color=colour, alpha=0.15, linewidth=0)


def _mark_events(axes: Axes, events: Sequence[Event], axis: str) -> None:
    for number, event in enumerate(events, 1):
        at = {"rounds": None if event.round is None else event.round + 1, "seconds": event.seconds}.get(axis)
        if at is not None:
            axes.axvline(at, color="#777777", linewidth=0.7, linestyle=":")
            axes.annotate(str(number), (at, 1.0), xycoords=("data", "axes fraction"), fontsize=7, ha="center")


def _energy_parts(curve: Curve) -> Sequence[float] | None:
    joules = curve.points[-1].joules if curve.points else None
    return None if joules is None else [joules.compute or 0.0, joules.radio or 0.0, joules.idle or 0.0]


def _layer_parts(curve: Curve) -> Sequence[float] | None:
    if not curve.points:
        return None
    directions = [layers for layers in (curve.points[-1].up, curve.points[-1].down) if layers is not None]
    if not directions:
        return None
    return [sum(getattr(layers, name) or 0.0 for layers in directions) for name in LAYERS]


def _bars(
    record: Record,
    parts: Callable[[Curve], Sequence[float] | None],
    label: str,
    names: Sequence[str],
    *,
    share: bool = False,
) -> Figure | None:
    """One stacked bar for each split and method, mean over seeds; parts that are 0 everywhere are left out."""
    found: dict[str, list[Sequence[float]]] = {}
    for curve in record.curves:
        values = parts(curve)
        if values is not None:
            found.setdefault(f"{curve.split}, {curve.name}", []).append(values)
    if not found:
        return None
    matrix = np.array([np.mean(rows, axis=0) for rows in found.values()])  # (bars, parts)
    if share:
        matrix /= np.maximum(matrix.sum(axis=1, keepdims=True), 1e-300)
    figure = _figure(1, height=1.2 + 0.32 * len(matrix))
    axes = figure.add_subplot()
    left = np.zeros(len(matrix))
    for number, name in enumerate(names):
        if not matrix[:, number].any():
            continue
        axes.barh(
            list(found),
            matrix[:, number],
            left=left,
            color=COLOURS[number % len(COLOURS)],
            hatch=HATCHES[number % len(HATCHES)],
            edgecolor="white",
            label=name,
        )
        left += matrix[:, number]
    axes.invert_yaxis()
    axes.set(xlabel=label)
    _legend(figure)
    return figure


def _figure(panels: int, height: float = 4.2) -> Figure:
    """No global state: a figure of its own."""
    from matplotlib.figure import Figure

    return Figure(figsize=(max(6.4, 4.2 * panels), height), layout="constrained")


def _legend(figure: Figure) -> None:
    entries: dict[str, Any] = {}
    for axes in figure.axes:
        for handle, name in zip(*axes.get_legend_handles_labels(), strict=True):
            entries.setdefault(name, handle)
    figure.legend(
        entries.values(),
        entries.keys(),
        loc="outside lower center",
        ncols=min(6, len(entries)),
        fontsize=8,
        frameon=False,
    )
