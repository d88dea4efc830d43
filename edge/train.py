"""A plan's K local steps: draw batches, build targets, step, and make what the round uploads.

Pure given runtime, data and plan: every random number comes from the plan's seed, the device's name and the round.
Letters: B the program's batch, L labels, n training samples, K steps, P parameters.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from edge.methods.fd import LabelMeans
from edge.methods.targets import targets
from edge.runtime.protocol import Runtime
from edge.shard import Shard
from edge.wire.manifest import Manifest
from edge.wire.messages import Done, Method, ParameterUpload, Plan, Upload
from edge.wire.rows import code_counts, code_rows, read_counts
from edge.wire.streams import Purpose, stream

FloatArray: TypeAlias = NDArray[np.float32]
IntArray: TypeAlias = NDArray[np.int64]


class DivergedError(RuntimeError):
    """The loss is no longer a number: a lower learning rate is needed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    upload: Upload | ParameterUpload | Done
    loss: float
    """Mean over the K steps."""


def batches(rng: np.random.Generator, n: int, size: int, steps: int) -> Iterator[IntArray]:
    """K vectors of indices, of B samples each, or of all n where n < B.

    The indices run through one random order of the n samples after another: without replacement within an epoch.
    """
    b = min(n, size)
    order = rng.permutation(n)
    for _ in range(steps):
        while len(order) < b:
            order = np.concatenate([order, rng.permutation(n)])
        yield order[:b]
        order = order[b:]


def train(
    runtime: Runtime,
    shard: Shard,
    manifest: Manifest,
    plan: Plan,
    teacher: FloatArray | None,
    *,
    device: str,
    go_on: Callable[[], bool] = lambda: True,
) -> Result | None:
    """K steps on `runtime`, whose state they change. None if `go_on`, asked before each step, said no.

    `teacher` is (L, L) or None. Raises `DivergedError` when the loss or what would be uploaded is not finite.
    """
    L, B = len(manifest.labels), manifest.batch
    means = LabelMeans(L)
    losses = 0.0
    rng = stream(plan.seed, device, plan.round, Purpose.BATCHES)
    for indices in batches(rng, shard.samples, B, plan.steps):
        if not go_on():
            return None
        x, y = shard.batch(indices, B)  # (B, ...), (b,)
        target = targets(y, L, teacher, gamma=plan.gamma, normalise=plan.normalise, batch=B)  # (B, L)
        loss, logits = runtime.train(x, target, plan.lr)
        losses += loss
        means.add(y, logits[: len(y)])
    if not math.isfinite(losses):
        raise DivergedError("the loss is no longer a number; start the run again with a lower learning rate")
    if plan.method is Method.FL:
        upload: Upload | ParameterUpload | Done = _parameters(runtime, shard, manifest, plan)
    elif plan.method is Method.FD:
        upload = _logits(means, manifest, plan)
    else:
        upload = Done(run=plan.run, round=plan.round)
    return Result(upload=upload, loss=losses / plan.steps)


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
