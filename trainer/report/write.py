"""A record -> report.html, its figures as .svg, points.csv and devices.csv, in one folder."""

from __future__ import annotations

import csv
import html
import json
from collections.abc import Iterable, Sequence
from dataclasses import astuple
from pathlib import Path

from trainer.record.reach import reach_table
from trainer.record.run import Curve, Device, Joules, Layers, Record, Table
from trainer.report.figures import ENERGY, LAYERS, pictures, splits
from trainer.report.page import Cell, page_html, picture_html, svg, table_html

SUM_HEADS = (
    *(f"up_{layer}" for layer in LAYERS),
    *(f"down_{layer}" for layer in LAYERS),
    *(f"joules_{part}" for part in ENERGY),
)
CURVE_HEADS = ("method", "split", "seed", "label")
POINT_HEADS = (*CURVE_HEADS, "round", "seconds", "mean", "worst", "best", *SUM_HEADS)
DEVICE_HEADS = (*CURVE_HEADS, "device", "profile", "runtime", "link", "backend", "score", *SUM_HEADS)
WORDS = {"tcpip": "TCP/IP", "mqtt": "MQTT", "tls": "TLS"}


def write_report(record: Record, folder: Path) -> Path:
    """-> report.html. Raises OSError."""
    folder.mkdir(parents=True, exist_ok=True)
    drawn = []
    for picture in pictures(record):
        image = svg(picture.figure)
        (folder / f"{picture.name}.svg").write_bytes(image)
        drawn.append(picture_html(image, title=picture.title, caption=picture.caption))
    _write_csv(folder / "points.csv", POINT_HEADS, point_rows(record))
    _write_csv(folder / "devices.csv", DEVICE_HEADS, device_rows(record))
    page = folder / "report.html"
    body = "\n".join([_head(record), *_results(record), *drawn, *_events(record), *_devices(record), _sources(record)])
    page.write_text(page_html(_title(record), body), encoding="utf-8")
    return page


def point_rows(record: Record) -> Iterable[tuple[Cell, ...]]:
    for curve in record.curves:
        for point in curve.points:
            score = point.score
            yield (
                *_of(curve),
                *(point.round, point.seconds, score.mean, score.worst, score.best),
                *_layers(point.up),
                *_layers(point.down),
                *_joules(point.joules),
            )


def device_rows(record: Record) -> Iterable[tuple[Cell, ...]]:
    for curve in record.curves:
        for device in curve.devices:
            yield (
                *_of(curve),
                *(device.name, device.profile, device.runtime, device.link, device.backend, device.score),
                *_layers(device.up),
                *_layers(device.down),
                *_joules(device.joules),
            )


def _of(curve: Curve) -> tuple[Cell, ...]:
    return curve.method, curve.split, curve.seed, curve.label


def _layers(layers: Layers | None) -> tuple[Cell, ...]:
    return (None,) * len(LAYERS) if layers is None else astuple(layers)


def _joules(joules: Joules | None) -> tuple[Cell, ...]:
    return (None,) * len(ENERGY) if joules is None else astuple(joules)


def _write_csv(path: Path, heads: Sequence[str], rows: Iterable[Sequence[Cell]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([heads, *rows])


def _title(record: Record) -> str:
    methods = ", ".join(dict.fromkeys(curve.name for curve in record.curves))
    return f"Potstill {record.kind}: {methods or 'no curve'}"


def _head(record: Record) -> str:
    state = "complete" if record.complete else f"NOT complete: {record.failure or 'it was stopped'}"
    when = html.escape(f"{record.started} to {record.ended or 'no end'}, {state}.")
    settings = html.escape(json.dumps(record.settings, default=str))
    parts = [f"<p>{when}<br><code>{settings}</code></p>"]
    for name, value in (("Data", record.data), ("Program", record.program)):
        if value is not None:
            parts.append(f"<p>{name}: <code>{html.escape(json.dumps(value))}</code></p>")
    return "\n".join(parts)


def _results(record: Record) -> list[str]:
    """What was reached and paid; the command's own tables first."""
    tables = list(record.tables)
    tables += [reach_table(record, split) for split in splits(record) if _points(record, split)]
    return [_table(table) for table in tables]


def _points(record: Record, split: str) -> bool:
    return any(curve.points for curve in record.curves if curve.split == split)


def _table(table: Table) -> str:
    notes = "".join(f"<p>{html.escape(note)}</p>" for note in table.notes)
    return f"<h2>{html.escape(table.title)}</h2>\n{table_html(table.heads, table.rows)}{notes}"


def _events(record: Record) -> list[str]:
    if not record.events:
        return []
    heads = ("", "kind", "method", "round", "seconds", "device", "what")
    rows = [
        (number, event.kind, event.method, event.round, event.seconds, event.device, event.text)
        for number, event in enumerate(record.events, 1)
    ]
    return ["<h2>Events</h2>", table_html(heads, rows)]


def _devices(record: Record) -> list[str]:
    """A table a curve: bytes by layer and joules of each device, with what nobody knows left out."""
    return [
        f"<h2>Devices: {html.escape(f'{curve.name}, {curve.split}, seed {curve.seed}')}</h2>\n{_device_table(curve)}"
        for curve in record.curves
        if curve.devices
    ]


def _device_table(curve: Curve) -> str:
    figures = list(dict.fromkeys(name for device in curve.devices for name in device.figures))
    heads = (
        "device",
        "profile",
        "runtime",
        "link",
        "back end",
        "score",
        *(f"{WORDS.get(layer, layer)} up" for layer in LAYERS),
        *(f"{WORDS.get(layer, layer)} down" for layer in LAYERS),
        *(f"J {part}" for part in ENERGY),
        *figures,
    )
    rows = [_device_row(device, figures) for device in curve.devices]
    kept = [column for column in range(len(heads)) if any(row[column] is not None for row in rows)]
    return table_html([heads[column] for column in kept], [[row[column] for column in kept] for row in rows])


def _device_row(device: Device, figures: Sequence[str]) -> tuple[Cell, ...]:
    return (
        *(device.name, device.profile, device.runtime, device.link, device.backend, device.score),
        *_layers(device.up),
        *_layers(device.down),
        *_joules(device.joules),
        *(device.figures.get(name) for name in figures),
    )


def _sources(record: Record) -> str:
    rows = "".join(
        f'<tr><td class="word">{html.escape(figure)}</td><td class="word {html.escape(source.partition(":")[0])}">'
        f"{html.escape(source)}</td></tr>"
        for figure, source in record.provenance.items()
    )
    environment = html.escape(json.dumps(record.environment))
    return f"<h2>Where the figures come from</h2>\n<table>{rows}</table>\n<p><code>{environment}</code></p>"
