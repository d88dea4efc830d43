"""What a demo did and found, as a run record (docs/run-json.md)."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from edge.wire.manifest import Manifest
from trainer.data import Dataset
from trainer.demo.observe import Observed
from trainer.demo.settings import Settings
from trainer.partition import Split
from trainer.record.inputs import data_of, program_of
from trainer.record.run import Curve, Device, Layers, Point, Record, environment, now
from trainer.shards import ShardFile

PROVENANCE = {
    "accuracy": "measured: by each device on its test set after its round",
    "payload": "measured: counted by each device's client, message by message",
    "mqtt": "measured: TCP_INFO of each device's connection, less the payload (with TLS, its records too)",
    "seconds": "measured: the aggregator's monotonic clock",
    "train_s": "measured: each device's monotonic clock",
}


def begin(settings: Settings, dataset: Dataset, manifest: Manifest) -> Record:
    """The record before the first run."""
    return Record(
        kind="demo",
        settings=_plain(settings),
        provenance=PROVENANCE,
        started=now(),
        environment=environment(),
        data=data_of(dataset),
        program=program_of(manifest),
    )


def _plain(settings: Settings) -> dict[str, Any]:
    plain = asdict(settings)
    plain |= {"splits": [str(split) for split in settings.splits], "program": settings.program.name}
    del plain["program_name"]
    return plain


def curve(method: str, split: Split, seed: int, seen: Observed, shards: Sequence[ShardFile]) -> Curve:
    """One run of one method: a point for each round that somebody has reported."""
    seconds, points = 0.0, []
    for number, took in sorted(seen.round_seconds.items()):
        seconds += took
        reports = dict(sorted(seen.reports.get(number, {}).items()))
        if reports:
            points.append(_point(number, seconds, reports, seen))
    last = points[-1].devices if points else {}
    return Curve(
        method=method,
        split=str(split),
        seed=seed,
        points=tuple(points),
        complete=seen.complete,
        reason=seen.reason,
        devices=tuple(_device(shard, last.get(shard.device)) for shard in shards),
        figures={"run": seen.run, "refused": seen.refused, "seconds": round(seen.seconds, 3)},
    )


def _point(number: int, seconds: float, reports: dict[str, dict[str, Any]], seen: Observed) -> Point:
    return Point(
        round=number,
        score=seen.accuracy(number),
        seconds=round(seconds, 3),
        up=_layers(reports.values(), "up"),
        down=_layers(reports.values(), "down"),
        missing=tuple(seen.missing[number]),
        devices=reports,
    )


def _device(shard: ShardFile, report: Mapping[str, Any] | None) -> Device:
    known = None if report is None else [report]
    return Device(
        name=shard.device,
        samples=tuple(shard.counts),
        test_samples=shard.test_samples,
        score=None if report is None else float(report["accuracy"]),
        up=None if known is None else _layers(known, "up"),
        down=None if known is None else _layers(known, "down"),
    )


def _layers(reports: Collection[Mapping[str, Any]], direction: str) -> Layers:
    """Mean over devices; what is on the TCP stream beside the payload is MQTT's."""
    payload = _mean(reports, f"payload_{direction}")
    return Layers(payload=round(payload, 2), mqtt=round(_mean(reports, f"stream_{direction}") - payload, 2))


def _mean(reports: Collection[Mapping[str, Any]], name: str) -> float:
    values = [float(report[name]) for report in reports]
    return sum(values) / len(values)
