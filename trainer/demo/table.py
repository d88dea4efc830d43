"""The demo's table, as text and as Markdown, and what its columns are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from trainer.record.run import Curve, Layers, Point, Record

HEADS = (
    "split",
    "method",
    "mean",
    "worst",
    "best",
    "rounds",
    "payload up",
    "payload down",
    "TCP up",
    "TCP down",
    "seconds",
)
LEFT = 2
"""Columns that are words."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    split: str
    method: str
    mean: float
    """Accuracies: 0..1."""
    worst: float
    best: float
    rounds: int
    payload_up: float
    """Bytes: a device, a round."""
    payload_down: float
    stream_up: float
    stream_down: float
    seconds: float

    def cells(self) -> tuple[str, ...]:
        accuracies = (f"{value:.3f}" for value in (self.mean, self.worst, self.best))
        sizes = (f"{value:,.0f}" for value in (self.payload_up, self.payload_down, self.stream_up, self.stream_down))
        return (self.split, self.method, *accuracies, str(self.rounds), *sizes, f"{self.seconds:.1f}")


def rows_of(record: Record) -> list[Row]:
    """One row for each method that was run to its end."""
    return [_row(curve, curve.points[-1], int(record.settings["rounds"])) for curve in record.curves if curve.complete]


def _row(curve: Curve, last: Point, rounds: int) -> Row:
    payload_up, stream_up = _payload_and_stream(last.up)
    payload_down, stream_down = _payload_and_stream(last.down)
    return Row(
        split=curve.split,
        method=curve.method,
        mean=last.score.mean,
        worst=last.score.worst,
        best=last.score.best,
        rounds=rounds,
        payload_up=payload_up / rounds,
        payload_down=payload_down / rounds,
        stream_up=stream_up / rounds,
        stream_down=stream_down / rounds,
        seconds=curve.figures["seconds"],
    )


def _payload_and_stream(layers: Layers | None) -> tuple[float, float]:
    assert layers is not None, "every device reports its bytes"
    return layers.payload, layers.payload + (layers.mqtt or 0.0)


def text(rows: Sequence[Row]) -> str:
    lines = [HEADS, *(row.cells() for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(HEADS))]
    return "\n".join(_aligned(line, widths) for line in lines) + "\n"


def _aligned(line: Sequence[str], widths: Sequence[int]) -> str:
    cells = [
        cell.ljust(width) if column < LEFT else cell.rjust(width)
        for column, (cell, width) in enumerate(zip(line, widths, strict=True))
    ]
    return "  ".join(cells).rstrip()


def markdown(rows: Sequence[Row]) -> str:
    rule = ["---"] * LEFT + ["---:"] * (len(HEADS) - LEFT)
    return "\n".join("| " + " | ".join(line) + " |" for line in (HEADS, rule, *(row.cells() for row in rows))) + "\n"


def explanation(record: Record) -> str:
    """What the columns are, and how the table came about."""
    settings, data, program = record.settings, record.data, record.program
    assert data is not None
    assert program is not None
    tested = "its own test samples" if settings["own_test"] else f"the same {data['test_samples']:,} test samples"
    return (
        f"{data['name']}, {settings['devices']} devices, {settings['rounds']} rounds of {settings['steps']} steps, "
        f"seed {settings['seed']}, "
        f"program {program['name']} ({program['parameters']:,} parameters).\n"
        "Every method had the same split, start, seed and number of steps.\n"
        f"mean, worst, best: accuracy over the devices after the last round, each device's model on {tested};\n"
        "  alone, fd and share: the device's own model after its local steps; fl and the fld family: the fleet's.\n"
        "payload: bytes of plans, uploads and parameters, by a device and a round, sent (up) and received (down).\n"
        "TCP: bytes on the TCP stream by a device and a round (MQTT with its acknowledgements and keepalive, and\n"
        "  retransmissions, from TCP_INFO; without TCP/IP headers).\n"
        "  Reports of accuracy are left out of both: they are the demo's instrument, no method needs them.\n"
        "seconds: from the first plan to the close of the last round. All figures were measured in this run.\n"
    )


def differences(rows: Sequence[Row]) -> list[str]:
    """What fd and share gained over alone and how far fl is from them, a line for each and each split."""
    found = []
    for split in dict.fromkeys(row.split for row in rows):
        by_method = {row.method: row for row in rows if row.split == split}
        alone, fl = by_method.get("alone"), by_method.get("fl")
        for own in (by_method[method] for method in ("fd", "share") if method in by_method):
            if alone is None:
                continue
            line = f"{split}: {own.method} - alone = {_points(own.mean - alone.mean)} in the mean, "
            line += f"{_points(own.worst - alone.worst)} in the worst device"
            if fl is not None:
                times = (fl.payload_up + fl.payload_down) / (own.payload_up + own.payload_down)
                line += f"; fl - {own.method} = {_points(fl.mean - own.mean)} in the mean for {times:,.0f} times "
                line += "the payload"
            found.append(line)
    return found


def _points(difference: float) -> str:
    return f"{100 * difference:+.1f} points"
