"""A plan's K local steps: draw batches, build targets, step, and make what the round uploads.

What each method's steps and uploads are, to the last random number: docs/methods.md.

Pure given runtime, data and plan: every random number comes from the plan's seed, the device's name and the round.
Letters: B the program's batch, L labels, n training samples, K steps, P parameters.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from edge.methods.fd import LabelMeans
from edge.methods.fld import choose_seeds
from edge.methods.share import Labelled, draw_inputs, draw_shifts, gather, shift_images
from edge.methods.targets import label_targets, targets
from edge.runtime.protocol import Runtime
from edge.shard import Pool, Shard
from edge.wire.labels import code_votes
from edge.wire.manifest import Manifest
from edge.wire.messages import AnyUpload, Done, LabelUpload, Method, ParameterUpload, Plan, SeedUpload, Upload
from edge.wire.options import FldOptions, ShareOptions
from edge.wire.rows import code_counts, code_rows, read_counts
from edge.wire.streams import Purpose, batches, stream

FloatArray: TypeAlias = NDArray[np.float32]
IntArray: TypeAlias = NDArray[np.int64]


class DivergedError(RuntimeError):
    """The loss is no longer a number: a lower learning rate is needed."""


class Result(NamedTuple):
    upload: AnyUpload
    loss: float
    """Mean over the K steps."""


class Step(NamedTuple):
    """What one step is fed with."""

    x: FloatArray
    """(B, ...)."""
    target: FloatArray
    """(B, L)."""
    y: IntArray
    """(b,) labels of the local samples, which stand in the first rows."""


class Task(NamedTuple):
    """What a plan asks of this device, and what it goes by."""

    plan: Plan
    teacher: FloatArray | None
    """(L, L), or None."""
    device: str
    seeds: bool = False
    """Whether the upload brings this device's seeds (FLD)."""
    shared: tuple[tuple[int, bytes], ...] = ()
    """Rounds and the fleet's labels of the inputs they shared, oldest first (`share`)."""
    pool: Pool | None = None
    """Of the program; `share` needs one."""


def train(
    runtime: Runtime, shard: Shard, manifest: Manifest, task: Task, *, go_on: Callable[[], bool] = lambda: True
) -> Result | None:
    """K steps on `runtime`, whose state they change. None if `go_on`, asked before each step, said no.

    Raises `DivergedError` when the loss or what would be uploaded is not finite.
    """
    plan = task.plan
    means = LabelMeans(len(manifest.labels))
    losses = 0.0
    steps = _share_steps if plan.method is Method.SHARE else _local_steps
    for x, target, y in steps(shard, manifest, task):
        if not go_on():
            return None
        loss, logits = runtime.train(x, target, plan.lr)
        losses += loss
        means.add(y, logits[: len(y)])
    if not math.isfinite(losses):
        raise DivergedError("the loss is no longer a number; start the run again with a lower learning rate")
    upload = _upload(runtime, shard, manifest, task, means, go_on)
    return None if upload is None else Result(upload=upload, loss=losses / plan.steps)


def _local_steps(shard: Shard, manifest: Manifest, task: Task) -> Iterator[Step]:
    """B local samples a step."""
    plan, B = task.plan, manifest.batch
    rng = stream(plan.seed, task.device, plan.round, Purpose.BATCHES)
    rows = _label_targets(manifest, task)  # (L, L)
    for indices in batches(rng, shard.samples, B, plan.steps):
        x, y = shard.batch(indices, B)  # (B, ...), (b,)
        yield Step(x, targets(y, rows, B), y)


def _label_targets(manifest: Manifest, task: Task) -> FloatArray:
    """(L, L)."""
    plan = task.plan
    return label_targets(len(manifest.labels), task.teacher, gamma=plan.gamma, normalise=plan.normalise)


# ---------------------------------------------------------------- share: half local, half shared


def _share_steps(shard: Shard, manifest: Manifest, task: Task) -> Iterator[Step]:
    """Each step h = B // 2 local samples and B - h labelled shared inputs; local ones alone while there are none."""
    plan, B, axes = task.plan, manifest.batch, len(manifest.input_shape)
    options, pool = _share(task)
    if B < 2:
        raise ValueError("share trains on two halves of a batch: compile the program with --batch 2 or more")
    h = B // 2
    labelled = gather(plan.seed, options, task.shared, pool=len(pool.x), axes=axes, labels=len(manifest.labels))
    local = batches(stream(plan.seed, task.device, plan.round, Purpose.BATCHES), shard.samples, h, plan.steps)
    shifts = stream(plan.seed, task.device, plan.round, Purpose.SHIFT)
    shared = _shared_batches(task, labelled, B - h)
    rows = _label_targets(manifest, task)  # (L, L)
    for indices, chosen in zip(local, shared, strict=True):
        x, y = shard.batch(indices, B)  # (B, ...), (b,), b <= h
        shift_images(x[: len(y)], draw_shifts(shifts, len(y), options.shift, axes))
        target = np.zeros((B, len(manifest.labels)), np.float32)  # (B, L)
        target[:h] = targets(y, rows, h)
        if labelled is None:
            target[:h] *= np.float32(B / h)
        else:
            end = h + len(chosen)
            x[h:end] = _shared_x(pool, labelled, chosen)
            target[h:end] = labelled.rows[chosen] * np.float32((B - h) / len(chosen))
        yield Step(x, target, y)


def _shared_batches(task: Task, labelled: Labelled | None, size: int) -> Iterator[IntArray]:
    plan = task.plan
    if labelled is None:
        return iter([np.zeros(0, np.int64)] * plan.steps)
    return batches(stream(plan.seed, task.device, plan.round, Purpose.PUBLIC), len(labelled.rows), size, plan.steps)


def _shared_x(pool: Pool, labelled: Labelled, chosen: IntArray) -> FloatArray:
    """(c, ...)."""
    x = pool.batch(labelled.inputs.indices[chosen])
    shift_images(x, labelled.inputs.shifts[chosen])
    return x


def _share(task: Task) -> tuple[ShareOptions, Pool]:
    if task.pool is None:
        raise ValueError("share needs a program with a pool of inputs: `potstill trainer pool` adds one")
    options = task.plan.read_options()
    assert isinstance(options, ShareOptions)  # a plan checks its options
    return options, task.pool


def _votes(runtime: Runtime, manifest: Manifest, task: Task, go_on: Callable[[], bool]) -> bytes | None:
    """This device's labels of the round's S shared inputs; None if `go_on` said no."""
    plan = task.plan
    options, pool = _share(task)
    inputs = draw_inputs(plan.seed, plan.round, options, len(pool.x), len(manifest.input_shape))
    rows = np.zeros((options.inputs, len(manifest.labels)), np.float32)  # (S, L)
    for start in range(0, options.inputs, manifest.predict_batch):
        if not go_on():
            return None
        part = slice(start, start + manifest.predict_batch)
        x = pool.batch(inputs.indices[part])
        shift_images(x, inputs.shifts[part])
        rows[part] = runtime.predict(x)
    if not np.isfinite(rows).all():
        raise DivergedError("logits are no longer numbers; start the run again with a lower learning rate")
    return code_votes(rows, options)


# ---------------------------------------------------------------- what goes up


def _upload(  # noqa: PLR0917
    runtime: Runtime, shard: Shard, manifest: Manifest, task: Task, means: LabelMeans, go_on: Callable[[], bool]
) -> AnyUpload | None:
    """None if `go_on` said no."""
    plan = task.plan
    if plan.method is Method.FL:
        return _parameters(runtime, shard, manifest, plan)
    if plan.method is Method.ALONE:
        return Done(run=plan.run, round=plan.round)
    upload = _logits(means, manifest, plan)
    options = plan.read_options()
    if isinstance(options, ShareOptions) and options.inputs:
        votes = _votes(runtime, manifest, task, go_on)
        return None if votes is None else LabelUpload(means=upload, labels=votes)
    if isinstance(options, FldOptions) and task.seeds:
        seeds = choose_seeds(
            shard.train_x,
            shard.train_y,
            shard.scale,
            seed=plan.seed,
            device=task.device,
            method=plan.method,
            options=options,
        )
        return upload if seeds is None else SeedUpload(means=upload, seeds=seeds)
    return upload


def _parameters(runtime: Runtime, shard: Shard, manifest: Manifest, plan: Plan) -> ParameterUpload:
    parameters = runtime.parameters()
    if not np.isfinite(parameters).all():
        raise DivergedError("parameters are no longer numbers; start the run again with a lower learning rate")
    return ParameterUpload(
        run=plan.run, round=plan.round, check=_check(manifest), samples=shard.samples, parameters=parameters
    )


def _logits(means: LabelMeans, manifest: Manifest, plan: Plan) -> Upload:
    """Mean logits (R, L) of the labels seen, coded, and how many samples are behind each."""
    return Upload(
        run=plan.run,
        round=plan.round,
        check=_check(manifest),
        counts=read_counts(code_counts(means.counts)),
        logits=code_rows(means.rows(), plan.bits),
    )


def _check(manifest: Manifest) -> int:
    """First two bytes of the label schema's digest."""
    return int.from_bytes(manifest.schema[:2], "big")


def accuracy(runtime: Runtime, shard: Shard, batch: int) -> float:
    """Of the model on the test set, a batch at a time; 0 where there is no test set."""
    right = 0
    for x, y in shard.test_batches(batch):
        right += int(np.count_nonzero(runtime.predict(x).argmax(axis=1) == y))
    return right / max(1, len(shard.test_y))
