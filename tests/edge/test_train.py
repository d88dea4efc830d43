from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from edge.methods.fld import choose_seeds
from edge.methods.share import draw_inputs, shift_images
from edge.runtime.numpy_ import NumpyRuntime
from edge.runtime.program import Program
from edge.shard import Pool, Shard, load_shard
from edge.train import DivergedError, Task, accuracy, train
from edge.wire.labels import pack_labels, read_labels
from edge.wire.messages import Done, LabelUpload, Method, ParameterUpload, Plan, SeedUpload, Upload
from edge.wire.options import FldOptions, ShareOptions
from edge.wire.rows import code_counts, read_counts
from edge.wire.streams import Purpose, batches, stream

L = 10


def make_plan(program: Program, **changes: Any) -> Plan:
    """Round 1 of 3 of an FD run."""
    settings: dict[str, Any] = {
        "run": 7,
        "round": 1,
        "rounds": 3,
        "method": Method.FD,
        "steps": 5,
        "seed": 1,
        "lr": 0.5,
        "gamma": 1.0,
        "bits": 32,
        "deadline_s": 60.0,
        "qos": 1,
        "report": False,
        "normalise": False,
        "program": program.digest,
        "cohort": frozenset(),
        "contributors": np.zeros(L, np.uint32),
        "logits": None,
    }
    return Plan(**settings | changes)


def task(plan: Plan, teacher: NDArray[np.float32] | None = None, *, device: str = "d0", **more: Any) -> Task:
    return Task(plan=plan, teacher=teacher, device=device, **more)


@pytest.fixture
def shard(shard_file: Path, linear_program: Program) -> Shard:
    return load_shard(shard_file, linear_program.manifest)


def few(shard: Shard, n: int) -> Shard:
    return replace(shard, train_x=shard.train_x[:n], train_y=shard.train_y[:n])


class Recorder(NumpyRuntime):
    """The real runtime; remembers what it was fed."""

    def __init__(self, program: Program) -> None:
        super().__init__(program)
        self.fed: list[tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]] = []

    def train(
        self, x: NDArray[np.float32], target: NDArray[np.float32], lr: float
    ) -> tuple[float, NDArray[np.float32]]:
        loss, logits = super().train(x, target, lr)
        self.fed.append((x.copy(), target.copy(), logits.copy()))
        return loss, logits


# ---------------------------------------------------------------- what is uploaded


def test_fd_uploads_the_mean_of_what_was_said_during_training(linear_program: Program, shard: Shard) -> None:
    runtime = Recorder(linear_program)
    plan = make_plan(linear_program)
    result = train(runtime, shard, linear_program.manifest, task(plan))
    assert result is not None
    upload = result.upload
    assert isinstance(upload, Upload)
    logits = np.concatenate([said for _, _, said in runtime.fed])
    labels = np.concatenate([target.argmax(axis=1) for _, target, _ in runtime.fed])
    expected = [logits[labels == label].mean(axis=0) for label in range(L)]
    np.testing.assert_allclose(upload.logits.values(), expected, atol=1e-6)
    assert upload.counts.tolist() == read_counts(code_counts(np.bincount(labels, minlength=L))).tolist()
    assert (upload.run, upload.round) == (7, 1)
    assert upload.check.to_bytes(2, "big") == linear_program.manifest.schema[:2]


def test_a_label_that_is_not_there_has_no_row(linear_program: Program, shard: Shard) -> None:
    keep = shard.train_y != 3
    part = replace(shard, train_x=shard.train_x[keep], train_y=shard.train_y[keep])
    result = train(
        NumpyRuntime(linear_program),
        part,
        linear_program.manifest,
        task(make_plan(linear_program, steps=20)),
    )
    assert result is not None
    assert isinstance(result.upload, Upload)
    assert np.flatnonzero(result.upload.counts == 0).tolist() == [3]
    assert result.upload.logits.rows == 9


def test_fl_uploads_parameters_weighted_by_samples(linear_program: Program, shard: Shard) -> None:
    runtime = NumpyRuntime(linear_program)
    plan = make_plan(linear_program, method=Method.FL, contributors=np.zeros(0, np.uint32))
    result = train(runtime, shard, linear_program.manifest, task(plan))
    assert result is not None
    assert isinstance(result.upload, ParameterUpload)
    assert result.upload.samples == 300
    assert result.upload.parameters.tolist() == runtime.parameters().tolist()
    assert runtime.parameters().any()


def test_alone_uploads_nothing_and_learns(linear_program: Program, shard: Shard) -> None:
    runtime = NumpyRuntime(linear_program)
    plan = make_plan(linear_program, method=Method.ALONE, contributors=np.zeros(0, np.uint32), steps=60)
    before = accuracy(runtime, shard, 32)
    result = train(runtime, shard, linear_program.manifest, task(plan))
    assert result is not None
    assert result.upload == Done(run=7, round=1)
    assert accuracy(runtime, shard, 32) > before + 0.5


# ---------------------------------------------------------------- how it trains


def test_the_same_round_is_the_same_wherever_it_is_computed(linear_program: Program, shard: Shard) -> None:
    results = [
        train(
            NumpyRuntime(linear_program), shard, linear_program.manifest, task(make_plan(linear_program), device=device)
        )
        for device in ("d0", "d0", "d1")
    ]
    losses = [result.loss for result in results if result is not None]
    assert losses[0] == losses[1] != losses[2]


def test_fewer_samples_than_a_batch_are_padded_and_weigh_as_a_mean(linear_program: Program, shard: Shard) -> None:
    runtime = Recorder(linear_program)
    part = few(shard, 3)
    train(runtime, part, linear_program.manifest, task(make_plan(linear_program, steps=1, lr=1.0)))
    x, target, _ = runtime.fed[0]
    assert np.allclose(target.sum(axis=1), [32 / 3] * 3 + [0] * 29)
    assert not x[3:].any()
    # The step of a mean over 3 samples from w = 0, where every logit is 0.1: gradient x (0.1 - y) / 3.
    flat, y = x[:3].reshape(3, 64), np.eye(L, dtype=np.float32)[target[:3].argmax(axis=1)]
    expected = -flat.T @ (0.1 - y) / 3
    np.testing.assert_allclose(runtime.parameters()[: 64 * L].reshape(64, L), expected, atol=1e-6)


def test_the_teacher_joins_the_target(linear_program: Program, shard: Shard) -> None:
    teacher = np.full((L, L), 0.1, np.float32)
    teacher[4] = 0
    runtime = Recorder(linear_program)
    train(runtime, shard, linear_program.manifest, task(make_plan(linear_program, gamma=0.5), teacher))
    for _, target, _ in runtime.fed:
        labels = target.argmax(axis=1)
        expected = np.eye(L)[labels] + 0.5 * teacher[labels]
        np.testing.assert_allclose(target, expected, atol=1e-6)


def test_training_can_be_told_to_stop_between_steps(linear_program: Program, shard: Shard) -> None:
    runtime = Recorder(linear_program)
    answers = iter([True, True, False])
    plan = make_plan(linear_program)
    result = train(runtime, shard, linear_program.manifest, task(plan), go_on=lambda: next(answers))
    assert result is None
    assert len(runtime.fed) == 2


def test_divergence_is_said_instead_of_uploaded(linear_program: Program, shard: Shard) -> None:
    runtime = NumpyRuntime(linear_program)
    runtime.set_parameters(np.full(64 * L + L, np.nan, np.float32))
    for method, labels in ((Method.FD, L), (Method.FL, 0), (Method.ALONE, 0)):
        plan = make_plan(linear_program, method=method, contributors=np.zeros(labels, np.uint32))
        with pytest.raises(DivergedError, match="lower learning rate"):
            train(runtime, shard, linear_program.manifest, task(plan))


def test_accuracy_counts_every_test_sample_once(linear_program: Program, shard: Shard) -> None:
    runtime = NumpyRuntime(linear_program)  # w = 0: every logit 0.1, the first label wins
    assert accuracy(runtime, shard, 7) == np.mean(shard.test_y == 0)
    assert accuracy(runtime, replace(shard, test_x=shard.test_x[:0], test_y=shard.test_y[:0]), 7) == 0


# ---------------------------------------------------------------- FLD


def test_fld_trains_on_labels_alone_and_gives_its_seeds_when_asked(linear_program: Program, shard: Shard) -> None:
    options = FldOptions(seeds=7)
    plan = make_plan(linear_program, method=Method.FLD, contributors=np.zeros(0, np.uint32), options=options.to_plan(1))
    uploads = []
    for asked in (True, False):
        runtime = Recorder(linear_program)
        result = train(runtime, shard, linear_program.manifest, task(plan, seeds=asked))
        assert result is not None
        assert all(set(np.unique(target)) == {0.0, 1.0} for _, target, _ in runtime.fed)
        uploads.append(result.upload)
    given, plain = uploads
    assert isinstance(given, SeedUpload)
    assert given.means == plain
    assert given.seeds == choose_seeds(
        shard.train_x, shard.train_y, shard.scale, seed=1, device="d0", method=Method.FLD, options=options
    )


def test_a_device_of_one_label_uploads_without_pairs(linear_program: Program, shard: Shard) -> None:
    part = replace(shard, train_x=shard.train_x[shard.train_y == 3], train_y=shard.train_y[shard.train_y == 3])
    plan = make_plan(
        linear_program, method=Method.MIXFLD, contributors=np.zeros(0, np.uint32), options=FldOptions().to_plan(1)
    )
    result = train(NumpyRuntime(linear_program), part, linear_program.manifest, task(plan, seeds=True))
    assert result is not None
    assert isinstance(result.upload, Upload)


# ---------------------------------------------------------------- share

B, HALF = 32, 16
OPTIONS = ShareOptions(inputs=40, buffer=2, shift=1, warm_up=0)
POOL = Pool(x=np.random.default_rng(8).integers(1, 256, (25, 1, 8, 8)).astype(np.uint8), scale=1 / 255)


def shared_plan(program: Program, round_: int = 1, **changes: Any) -> Plan:
    return make_plan(program, method=Method.SHARE, round=round_, options=OPTIONS.to_plan(round_), **changes)


def test_share_without_labels_yet_is_a_mean_over_half_a_batch(linear_program: Program, shard: Shard) -> None:
    runtime = Recorder(linear_program)
    result = train(runtime, shard, linear_program.manifest, task(shared_plan(linear_program), pool=POOL))
    assert result is not None
    local = list(batches(stream(1, "d0", 1, Purpose.BATCHES), 300, HALF, 5))
    moves = stream(1, "d0", 1, Purpose.SHIFT)
    for (x, target, _), indices in zip(runtime.fed, local, strict=True):
        expected, y = shard.batch(indices, HALF)
        shift_images(expected, moves.integers(-1, 2, (HALF, 2)))
        assert np.array_equal(x[:HALF], expected)
        assert not x[HALF:].any()
        np.testing.assert_allclose(target, 2 * np.concatenate([np.eye(L)[y], np.zeros((HALF, L))]))


def test_share_trains_on_local_and_labelled_inputs_at_once(linear_program: Program, shard: Shard) -> None:
    teacher = np.full((L, L), 0.1, np.float32)
    labels = [np.random.default_rng(seed).integers(0, L, 40) for seed in (0, 1)]
    shared = ((2, pack_labels(labels[0], L)), (4, pack_labels(labels[1], L)))
    runtime = Recorder(linear_program)
    plan = shared_plan(linear_program, 5, rounds=9)
    train(runtime, shard, linear_program.manifest, task(plan, teacher, shared=shared, pool=POOL))
    drawn = [draw_inputs(1, round_, OPTIONS, 25, 3) for round_ in (2, 4)]
    places = np.concatenate([inputs.indices for inputs in drawn])
    moves = np.concatenate([inputs.shifts for inputs in drawn])
    said = np.concatenate(labels)
    local = batches(stream(1, "d0", 5, Purpose.BATCHES), 300, HALF, 5)
    public = batches(stream(1, "d0", 5, Purpose.PUBLIC), 80, B - HALF, 5)
    for (x, target, _), indices, chosen in zip(runtime.fed, local, public, strict=True):
        expected = POOL.batch(places[chosen])
        shift_images(expected, moves[chosen])
        assert np.array_equal(x[HALF:], expected)
        np.testing.assert_allclose(target[HALF:], np.eye(L)[said[chosen]])
        y = shard.train_y[indices]
        np.testing.assert_allclose(target[:HALF], np.eye(L)[y] + teacher[y], atol=1e-6)


def test_a_half_that_is_short_keeps_its_weight(linear_program: Program, shard: Shard) -> None:
    runtime = Recorder(linear_program)
    shared = ((0, pack_labels(np.zeros(40, np.int64), L)),)
    plan = shared_plan(linear_program, steps=1)
    train(runtime, few(shard, 4), linear_program.manifest, task(plan, shared=shared, pool=POOL))
    _, target, _ = runtime.fed[0]
    assert target.sum(axis=1).tolist() == [4.0] * 4 + [0.0] * 12 + [1.0] * 16


def test_share_labels_the_rounds_inputs_after_training(linear_program: Program, shard: Shard) -> None:
    runtime = Recorder(linear_program)
    result = train(runtime, shard, linear_program.manifest, task(shared_plan(linear_program, 2), pool=POOL))
    assert result is not None
    assert isinstance(result.upload, LabelUpload)
    inputs = draw_inputs(1, 2, OPTIONS, 25, 3)
    x = POOL.batch(inputs.indices)
    shift_images(x, inputs.shifts)
    said = read_labels(result.upload.labels, 40, L)
    assert said.tolist() == runtime.predict(x).argmax(axis=1).tolist()
    assert sum(result.upload.means.counts) == 5 * HALF


def test_a_warm_up_round_uploads_mean_logits_alone(linear_program: Program, shard: Shard) -> None:
    plan = make_plan(linear_program, method=Method.SHARE, options=ShareOptions(warm_up=3).to_plan(1))
    result = train(NumpyRuntime(linear_program), shard, linear_program.manifest, task(plan, pool=POOL))
    assert result is not None
    assert isinstance(result.upload, Upload)


def test_share_can_be_told_to_stop_while_it_labels(linear_program: Program, shard: Shard) -> None:
    answers = iter([True] * 5 + [True, False])  # 5 steps, 2 batches of 40 inputs
    result = train(
        NumpyRuntime(linear_program),
        shard,
        linear_program.manifest,
        task(shared_plan(linear_program), pool=POOL),
        go_on=lambda: next(answers),
    )
    assert result is None


def test_share_without_a_pool_says_what_to_do(linear_program: Program, shard: Shard) -> None:
    with pytest.raises(ValueError, match="trainer pool"):
        train(NumpyRuntime(linear_program), shard, linear_program.manifest, task(shared_plan(linear_program)))
