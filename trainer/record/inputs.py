"""What a run was made with, as its record tells it: the data and the program (docs/run-json.md)."""

from __future__ import annotations

from typing import Any

from edge.wire.manifest import Manifest
from trainer.data import Dataset


def data_of(dataset: Dataset) -> dict[str, Any]:
    """`Record.data`."""
    return {
        "name": dataset.name,
        "input_shape": list(dataset.input_shape),
        "labels": dataset.label_count,
        "pool_samples": len(dataset.pool),
        "test_samples": len(dataset.test),
    }


def program_of(manifest: Manifest) -> dict[str, Any]:
    """`Record.program`."""
    return {
        "name": manifest.name,
        "digest": manifest.digest.hex(),
        "parameters": manifest.parameter_count,
        "optimiser": manifest.optimiser,
        "batch": manifest.batch,
    }
