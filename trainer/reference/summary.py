"""From curves to tables: one row a method and split, mean and spread over the seeds.

Every figure is read after the last round. Spread is the sample standard deviation over seeds; one seed has none.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import mean, stdev
from textwrap import wrap

from trainer.record.run import Curve, Table

WIDTH = 118

Cell = str | float | int | None


def summary(curves: Sequence[Curve]) -> Table:
    """Accuracy and payload of every method, by split."""
    rows = []
    for split, name in groups(curves):
        of = [curve for curve in curves if (curve.split, curve.name) == (split, name)]
        last = [curve.points[-1] for curve in of]
        others = [key for key in columns_of(of[0]) if key != main_column(of[0])]
        rows.append(
            (
                split,
                name,
                spread([point.score.mean for point in last]),
                f"{min(point.score.worst for point in last):.3f}",
                "; ".join(f"{key} {spread([column(point.devices, key) for point in last])}" for key in others),
                len(of),
                last[0].round + 1,
                round(mean(point.up.payload for point in last if point.up) / (last[0].round + 1)),
                round(mean(point.down.payload for point in last if point.down) / (last[0].round + 1)),
                f"{mean(point.seconds or 0 for point in last):.1f}",
            )
        )
    return Table(
        title="Accuracy after the last round, payload of a device and round",
        heads=("split", "method", "mean (sd)", "worst", "also", "seeds", "rounds", "bytes up", "bytes down", "seconds"),
        rows=tuple(rows),
        notes=(
            "mean (sd): over devices, then mean and standard deviation over seeds. worst: device and seed.",
            "also: other models and test sets, mean over devices (devices: their own models; server: its model).",
            "bytes: payload, means over the rounds. seconds: CPU of the slowest device and the server; no network.",
        ),
    )


def groups(curves: Sequence[Curve]) -> list[tuple[str, str]]:
    """(split, name) in order of appearance."""
    return list(dict.fromkeys((curve.split, curve.name) for curve in curves))


def columns_of(curve: Curve) -> list[str]:
    """What each device's figures hold: `devices common`, `server own`, ..."""
    return list(next(iter(curve.points[-1].devices.values())))


def main_column(curve: Curve) -> str:
    """The one that `score` is the mean of."""
    keys = columns_of(curve)
    view = "own" if curve.split == "natural" else "common"
    judged = keys[0].split(" ")[0]
    return f"{judged} {view}"


def column(devices: object, key: str) -> float:
    """Mean over devices of one of their figures."""
    assert isinstance(devices, dict)
    return mean(float(figures[key]) for figures in devices.values())


def spread(values: Sequence[float]) -> str:
    """`.831 (.005)`"""
    text = f"{mean(values):.3f}"
    return f"{text} ({stdev(values):.3f})" if len(values) > 1 else text


def text(table: Table) -> str:
    """Title, aligned columns, notes."""
    lines = [table.heads, *[tuple("" if cell is None else _cell(cell) for cell in row) for row in table.rows]]
    widths = [max(len(line[at]) for line in lines) for at in range(len(table.heads))]
    left = [not any(isinstance(row[at], int | float) for row in table.rows) for at in range(len(table.heads))]
    aligned = [
        "  ".join(c.ljust(w) if flush else c.rjust(w) for c, w, flush in zip(line, widths, left, strict=True)).rstrip()
        for line in lines
    ]
    notes = [line for note in table.notes for line in wrap(note, WIDTH, subsequent_indent="  ")]
    return "\n".join([table.title, "", *aligned, "", *notes]) + "\n"


def markdown(table: Table) -> str:
    rows = [
        table.heads,
        ["---"] * len(table.heads),
        *[["" if c is None else _cell(c) for c in row] for row in table.rows],
    ]
    return "\n".join("| " + " | ".join(row) + " |" for row in rows) + "\n"


def _cell(cell: Cell) -> str:
    if isinstance(cell, int):
        return f"{cell:,}"
    return f"{cell:.3f}" if isinstance(cell, float) else str(cell)
