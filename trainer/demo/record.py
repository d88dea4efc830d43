"""run.json: what a demo did and found, whole (run.schema.json, docs/run-json.md)."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from edge.wire.manifest import Manifest
from trainer.data import Dataset
from trainer.demo.observe import Observed
from trainer.demo.settings import Settings
from trainer.partition import Split
from trainer.shards import ShardFile

VERSION = 1
"""Of run.json; a reader refuses any other."""

PACKAGES = ("numpy", "paho-mqtt", "onnxruntime", "ai-edge-litert", "iotcore", "scikit-learn")


def begin(settings: Settings, dataset: Dataset, manifest: Manifest) -> dict[str, Any]:
    """The record before the first run; `splits` is filled in as they go by."""
    plain = asdict(settings)
    plain |= {"splits": [str(split) for split in settings.splits], "program": settings.program.name}
    del plain["program_name"]
    return {
        "format": "potstill-run",
        "version": VERSION,
        "started": now(),
        "ended": None,
        "complete": False,
        "failure": None,
        "settings": plain,
        "environment": environment(),
        "data": {
            "name": dataset.name,
            "input_shape": list(dataset.input_shape),
            "labels": dataset.label_count,
            "pool_samples": len(dataset.pool),
            "test_samples": len(dataset.test),
        },
        "program": {
            "name": manifest.name,
            "digest": manifest.digest.hex(),
            "parameters": manifest.parameter_count,
            "optimiser": manifest.optimiser,
            "batch": manifest.batch,
        },
        "provenance": {
            "accuracy": "measured: by each device on its test set after its round",
            "payload_bytes": "measured: counted by each device's client, message by message",
            "stream_bytes": "measured: TCP_INFO of each device's connection",
            "seconds": "measured: the aggregator's monotonic clock",
            "train_s": "measured: each device's monotonic clock",
        },
        "splits": [],
    }


def environment() -> dict[str, Any]:
    return {
        "potstill": version("potstill"),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "machine": platform.machine(),
        "cpus": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "packages": {name: found for name in PACKAGES if (found := _version(name)) is not None},
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def split_entry(split: Split, shards: Sequence[ShardFile]) -> dict[str, Any]:
    return {
        "split": str(split),
        "devices": {
            shard.device: {"samples": list(shard.counts), "test_samples": shard.test_samples} for shard in shards
        },
        "methods": [],
    }


def method_entry(method: str, seen: Observed) -> dict[str, Any]:
    """One run of one method; its summary figures are None until it is complete."""
    entry: dict[str, Any] = {
        "method": method,
        "run": seen.run,
        "complete": seen.complete,
        "reason": seen.reason,
        "seconds": round(seen.seconds, 3),
        "refused": seen.refused,
        "accuracy": None,
        "bytes_per_device_round": None,
        "rounds": [
            {
                "round": number,
                "seconds": seconds,
                "missing": seen.missing[number],
                "devices": dict(sorted(seen.reports.get(number, {}).items())),
            }
            for number, seconds in sorted(seen.round_seconds.items())
        ],
    }
    if seen.complete:
        entry["accuracy"] = {key: round(value, 6) for key, value in asdict(seen.accuracy(seen.rounds - 1)).items()}
        entry["bytes_per_device_round"] = {key: round(value, 2) for key, value in seen.bytes_a_round().items()}
    return entry


def now() -> str:
    """UTC, ISO 8601, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def write(record: dict[str, Any], path: Path) -> None:
    """Whole or not at all."""
    part = path.with_suffix(".part")
    part.write_text(json.dumps(record, indent=1) + "\n")
    part.replace(path)
