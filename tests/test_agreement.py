"""The product against its oracle: a fleet over MQTT and the reference trainer, which share no line of a method's code,
compute the same run. Digits, the cnn-8x8 that ships, three devices; rows at 32 bits, so that nothing hides in a code.

Letters: L labels, S shared inputs, R rows.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from broker.servers.embedded import EmbeddedBroker
from edge.wire.codec import decode
from edge.wire.labels import read_labels
from edge.wire.messages import LabelUpload, Message, Parameters, Plan, SeedUpload, Upload
from tests.fleet import Aggregator, Fleet, last_accuracy
from trainer.data import load_dataset
from trainer.partition import parse_split, resolve
from trainer.pool import write_with_pool
from trainer.programs import shipped
from trainer.reference.settings import OWN, Settings
from trainer.reference.work import device_round, scores_of_model, server_round
from trainer.shards import deal, device_names, left_over, write_shards

DEVICES, SAMPLES, SEED, ROUNDS, STEPS, LR, L = 3, 60, 5, 4, 30, 0.2, 10
SHARED = 60
METHODS = ("alone", "fl", "fd", "fld", "mixfld", "mix2fld", "share")
LAM = 0.125
"""Sums of 16ths of 16 grey values are exact in float32: both sides round the same halves the same way."""
TOLERANCE = 5e-3
"""Of a probability. Both sides sum float32 in an order of their own, and training spreads that: nothing in round 0,
up to 0.0065 seen in round 3 at twice this rate. What a row says changes by 0.1 and more from one round to the next."""

_FLD = {"seeds": 20, "conversion-steps": 10, "conversion-lr": LR, "lam": LAM}
OPTIONS: dict[str, dict[str, Any]] = {
    **dict.fromkeys(("fld", "mixfld", "mix2fld"), _FLD),
    "share": {"inputs": SHARED, "warm-up": 2, "buffer": 2, "shift": 1},
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One run over MQTT, from its ledger."""

    uploads: dict[tuple[int, str], Message]
    plans: dict[int, Plan]
    parameters: Parameters | None
    accuracy: dict[str, float]


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    folder = tmp_path_factory.mktemp("agreement")
    dataset, split = load_dataset("digits"), resolve(parse_split("fd"), SAMPLES, L)
    shards = deal(dataset, split, devices=DEVICES, samples=SAMPLES, seed=SEED)
    write_shards(folder, shards, scale=dataset.scale, label_count=L)
    with EmbeddedBroker() as server, Fleet(folder, server.url) as fleet:
        fleet.program, fleet.runtime = folder / "shared", "onnx"
        left = left_over(dataset, split, devices=DEVICES, samples=SAMPLES, seed=SEED)
        write_with_pool(shipped("cnn-8x8"), left, scale=dataset.scale, out=fleet.program)
        for device in device_names(DEVICES):
            fleet.start(device)
        yield fleet


def over_mqtt(fleet: Fleet, method: str) -> Run:
    settings = {"method": method, "rounds": ROUNDS, "steps": STEPS, "devices": DEVICES, "quorum": DEVICES, "lr": LR}
    settings |= {"seed": SEED, "bits": 32, **OPTIONS.get(method, {})}
    arguments = [word for flag, value in settings.items() for word in (f"--{flag}", str(value))]
    aggregator: Aggregator = fleet.new_run(*arguments)
    run = aggregator.complete()["run"]
    with sqlite3.connect(fleet.ledger) as db:  # docs/ledger.md
        counted = db.execute("SELECT round, device, frame FROM uploads WHERE run = ? AND fate = 'counted'", [run])
        uploads = {(number, device): message(frame) for number, device, frame in counted if frame is not None}
        plans = {
            number: message(plan) for number, plan in db.execute("SELECT round, plan FROM rounds WHERE run = ?", [run])
        }
        parameters = db.execute("SELECT frame FROM parameters WHERE run = ?", [run]).fetchone()
    found = None if parameters is None else message(parameters[0])
    assert found is None or isinstance(found, Parameters)
    return Run(
        uploads=uploads,
        plans={number: plan for number, plan in plans.items() if isinstance(plan, Plan)},
        parameters=found,
        accuracy=last_accuracy(aggregator.events, ROUNDS),
    )


def message(frame: bytes) -> Message:
    return decode(frame, limit=len(frame))


@dataclass(frozen=True, slots=True, kw_only=True)
class Expected:
    """The same run by the reference."""

    uploads: dict[tuple[int, str], dict[str, NDArray[Any]]]
    broadcasts: dict[int, dict[str, NDArray[Any]]]
    accuracy: dict[str, float]
    model_accuracy: float | None


def by_reference(fleet: Fleet, method: str) -> Expected:
    # A device's own defaults stand in `OWN`; seeds, inputs and rounds are those of `over_mqtt`.
    own: dict[str, Any] = {
        "seeds": 20,
        "server_steps": 10,
        "lam": LAM,
        "inputs": SHARED,
        "warm_up": 2,
        "buffer": 2,
        **OWN[method],
    }
    own["shift"] = min(1, int(own.get("shift", 0)))
    settings = Settings(
        method=method,
        data="digits",
        split=str(resolve(parse_split("fd"), SAMPLES, L)),
        devices=DEVICES,
        samples=SAMPLES,
        seed=SEED,
        programs=(str(fleet.program),),
        initial="program",
        rounds=ROUNDS,
        steps=STEPS,
        lr=LR,
        code="float32",
        **own,
    )
    memories: list[dict[str, Any]] = [{} for _ in range(DEVICES)]
    server: dict[str, Any] = {}
    broadcast: dict[str, Any] = {}
    uploads: dict[tuple[int, str], dict[str, NDArray[Any]]] = {}
    broadcasts: dict[int, dict[str, NDArray[Any]]] = {}
    for number in range(ROUNDS):
        done = [device_round(settings, i, number, memories[i], broadcast, True) for i in range(DEVICES)]
        memories = [one.memory for one in done]
        uploads |= {(number, name): one.message.arrays for name, one in zip(device_names(DEVICES), done, strict=True)}
        served = server_round(settings, number, server, [one.message.arrays for one in done])
        server = served.memory
        broadcast = {**served.message.arrays, "cohort": np.ones(DEVICES, bool)}
        broadcasts[number + 1] = broadcast
    model = broadcast.get("model")
    return Expected(
        uploads=uploads,
        broadcasts=broadcasts,
        accuracy={name: one.scores["common"] for name, one in zip(device_names(DEVICES), done, strict=True)},
        model_accuracy=None if model is None else scores_of_model(settings, 0, model)["common"],
    )


def by_label(upload: Upload) -> NDArray[np.float32]:
    """(L, L), zeros for a label that was not sent."""
    rows = np.zeros((L, L), np.float32)
    rows[upload.counts > 0] = upload.logits.values()
    return rows


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_a_fleet_computes_what_the_reference_does(fleet: Fleet, method: str) -> None:
    run, expected = over_mqtt(fleet, method), by_reference(fleet, method)
    for key, upload in run.uploads.items():
        check_upload(upload, expected.uploads[key])
    for number, plan in run.plans.items():
        if number > 0:
            check_plan(plan, expected.broadcasts[number])
    if run.parameters is None:
        assert run.accuracy == pytest.approx(expected.accuracy, abs=0.01)
    else:
        np.testing.assert_allclose(run.parameters.parameters, expected.broadcasts[ROUNDS]["model"], atol=TOLERANCE)
        assert run.accuracy == pytest.approx(dict.fromkeys(run.accuracy, expected.model_accuracy), abs=0.01)
    assert len(run.uploads) == (0 if method == "fl" else ROUNDS * DEVICES)  # the ledger keeps no parameters of devices
    assert min(run.accuracy.values()) > 0.2  # it has learnt something that could have been got wrong


def check_upload(upload: Message, expected: dict[str, NDArray[Any]]) -> None:
    means = upload.means if isinstance(upload, LabelUpload | SeedUpload) else upload
    if isinstance(means, Upload):
        assert means.counts.tolist() == expected["counts"].tolist()
        np.testing.assert_allclose(by_label(means), expected["rows"], atol=TOLERANCE)
    assert ("labels" in expected) == isinstance(upload, LabelUpload)
    if isinstance(upload, LabelUpload):
        said, wanted = read_labels(upload.labels, SHARED, L), expected["labels"].argmax(axis=1)
        assert np.count_nonzero(said != wanted) <= 1  # two outputs that are equal but for rounding
    assert ("x" in expected) == isinstance(upload, SeedUpload)
    if isinstance(upload, SeedUpload):
        assert upload.seeds.first.tolist() == expected["first"].tolist()
        if len(upload.seeds.second):
            assert upload.seeds.second.tolist() == expected["second"].tolist()
        wanted = expected["x"].reshape(upload.seeds.x.shape)
        np.testing.assert_allclose(upload.seeds.values(), wanted, atol=1e-6)


def check_plan(plan: Plan, expected: dict[str, NDArray[Any]]) -> None:
    assert plan.cohort == frozenset(range(DEVICES))
    if plan.logits is not None:
        assert plan.contributors.tolist() == expected["contributors"].tolist()
        rows = np.zeros((L, L), np.float32)
        rows[plan.contributors > 0] = plan.logits.values()
        np.testing.assert_allclose(rows, expected["G"], atol=TOLERANCE)
    assert bool(plan.labels) == ("labels" in expected)
    if plan.labels:
        wanted = expected["labels"].argmax(axis=1)
        assert np.count_nonzero(read_labels(plan.labels, SHARED, L) != wanted) <= 1
