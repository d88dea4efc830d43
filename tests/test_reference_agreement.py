"""The reference and a fleet of real processes over MQTT, the same seed: the same uploads, the same models.

What the devices sent is read from the ledger, frame by frame, and laid beside what the reference computes for the same
device and round, method by method. Neither knows the other's code; they share docs/methods.md and the random streams.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from broker.servers.embedded import EmbeddedBroker
from edge.wire.codec import decode
from edge.wire.labels import read_labels
from edge.wire.messages import AnyUpload, LabelUpload, Parameters, SeedUpload, Upload
from tests.fleet import Fleet, last_accuracy
from trainer.data import load_dataset
from trainer.partition import parse_split, resolve
from trainer.pool import write_with_pool
from trainer.programs import shipped
from trainer.reference.settings import Settings
from trainer.reference.site import Arrays
from trainer.reference.work import device_round, server_round
from trainer.shards import deal, device_names, left_over, write_shards

DEVICES, SAMPLES, ROUNDS, STEPS, SEED = 3, 60, 4, 6, 5
NAMES = device_names(DEVICES)
METHODS: dict[str, tuple[tuple[str, ...], dict[str, Any]]] = {
    "fl": ((), {}),
    "fd": ((), {}),
    **dict.fromkeys(
        ("fld", "mixfld", "mix2fld"),
        (
            ("--seeds", "20", "--conversion-steps", "10", "--conversion-lr", "0.2"),
            {"seeds": 20, "server_steps": 10},
        ),
    ),
    "share": (
        ("--inputs", "150", "--warm-up", "1", "--shift", "1"),
        {"inputs": 150, "warm_up": 1, "shift": 1},
    ),
}
"""Method -> options of `potstill broker run`, settings of the reference."""


@dataclass(frozen=True, kw_only=True)
class Sent:
    """One run as the ledger kept it."""

    seats: list[int]
    """Device numbers in the order of their seats."""
    uploads: dict[tuple[int, int], AnyUpload]
    """(round, device number) -> what it sent."""
    model: np.ndarray | None
    """(P,) the last that was broadcast."""


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    """Three devices on digits with the shipped program, on onnxruntime, left running for all methods."""
    folder = tmp_path_factory.mktemp("agreement")
    dataset = load_dataset("digits")
    split = resolve(parse_split("fd"), SAMPLES, dataset.label_count)
    shards = deal(dataset, split, devices=DEVICES, samples=SAMPLES, seed=SEED)
    pool = left_over(dataset, split, devices=DEVICES, samples=SAMPLES, seed=SEED)
    with EmbeddedBroker() as server, Fleet(folder, server.url) as made:
        write_shards(folder / "shards", shards, scale=dataset.scale, label_count=dataset.label_count)
        made.program = folder / "cnn"
        write_with_pool(shipped("cnn-8x8"), pool, scale=dataset.scale, out=made.program)
        for name in NAMES:
            (folder / "shards" / f"{name}.npz").rename(folder / f"{name}.npz")
            made.start(name, "--runtime", "onnx")
        yield made


def _over_mqtt(fleet: Fleet, method: str, options: tuple[str, ...]) -> tuple[Sent, dict[str, float]]:
    settings = ["--method", method, "--rounds", ROUNDS, "--steps", STEPS, "--seed", SEED, "--lr", 0.2, "--bits", 4]
    aggregator = fleet.new_run(*map(str, settings), "--devices", str(DEVICES), *options)
    run = aggregator.complete()["run"]
    with sqlite3.connect(fleet.ledger) as ledger:
        seats = ledger.execute("SELECT device FROM seats WHERE run = ? ORDER BY seat", [run]).fetchall()
        frames = ledger.execute(
            "SELECT round, device, frame FROM uploads WHERE run = ? AND fate = 'counted' AND frame IS NOT NULL", [run]
        ).fetchall()
        models = ledger.execute("SELECT frame FROM parameters WHERE run = ?", [run]).fetchall()
    uploads = {(number, NAMES.index(device)): decode(frame, limit=10**7) for number, device, frame in frames}
    last = decode(models[0][0], limit=10**7) if models else None
    assert last is None or isinstance(last, Parameters)
    sent = Sent(
        seats=[NAMES.index(device) for (device,) in seats],
        uploads=uploads,  # type: ignore[arg-type]
        model=None if last is None else last.parameters,
    )
    return sent, last_accuracy(aggregator.events, ROUNDS)


def _reference(
    method: str, changes: dict[str, Any], seats: list[int], program: Path
) -> tuple[dict[tuple[int, int], Arrays], Arrays, list[float]]:
    """-> every upload, the last broadcast, each device's accuracy after the last round."""
    settings = Settings(
        method=method,
        data="digits",
        split="fd:3:1",
        devices=DEVICES,
        samples=SAMPLES,
        seed=SEED,
        programs=(str(program),),
        initial="program",
        rounds=ROUNDS,
        steps=STEPS,
        lr=0.2,
        **changes,
    )
    memories: list[Arrays] = [{} for _ in NAMES]
    server: Arrays = {}
    broadcast: Arrays = {}
    uploads, accuracies = {}, [0.0] * DEVICES
    for number in range(ROUNDS):
        for i in range(DEVICES):
            done = device_round(settings, i, number, memories[i], broadcast, number == ROUNDS - 1)
            memories[i], uploads[number, i] = done.memory, done.message.arrays
            accuracies[i] = done.scores.get("common", 0.0)
        served = server_round(settings, number, server, [uploads[number, i] for i in seats])
        server, broadcast = served.memory, {**served.message.arrays, "cohort": np.ones(DEVICES, bool)}
    return uploads, broadcast, accuracies


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_the_reference_computes_what_the_fleet_sent(fleet: Fleet, method: str) -> None:
    options, changes = METHODS[method]
    sent, accuracies = _over_mqtt(fleet, method, options)
    uploads, broadcast, expected = _reference(method, changes, sent.seats, fleet.program)
    if sent.model is not None and method == "fl":
        np.testing.assert_allclose(sent.model, broadcast["model"], atol=1e-5)
    if method != "fl":
        assert sent.uploads.keys() == uploads.keys()
    for at, upload in sent.uploads.items():
        _compare(upload, uploads[at])
    if method in {"fd", "share"}:
        assert [accuracies[name] for name in NAMES] == pytest.approx(expected, abs=0.005)


def _compare(upload: AnyUpload, ours: Arrays) -> None:
    """Rows as they were coded, counts, seeds and labels: equal. One code may fall on the other side of a rounding."""
    if isinstance(upload, SeedUpload):
        np.testing.assert_allclose(upload.seeds.values(), ours["x"].reshape(len(ours["x"]), -1), atol=1e-6)
        np.testing.assert_array_equal(upload.seeds.first, ours["first"])
        if len(upload.seeds.second):
            np.testing.assert_array_equal(upload.seeds.second, ours["second"])
    else:
        assert "x" not in ours
    if isinstance(upload, LabelUpload):
        labels = read_labels(upload.labels, len(ours["labels"]), 10)
        assert (labels == ours["labels"].argmax(axis=1)).mean() > 0.99
    if isinstance(upload, Upload | SeedUpload | LabelUpload):
        means = upload if isinstance(upload, Upload) else upload.means
        np.testing.assert_array_equal(means.counts, ours["counts"])
        seen = means.counts > 0
        different = ~np.isclose(means.logits.values(), ours["rows"][seen], rtol=1e-5, atol=1e-7)
        assert different.any(axis=1).mean() <= 0.1
        np.testing.assert_allclose(means.logits.values(), ours["rows"][seen], atol=0.2)
