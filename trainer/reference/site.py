"""What a method finds at one device (or at the server) in one round: samples, random streams, a runtime.

Letters: B the program's batch, L labels, n samples, K steps, S shared inputs.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from edge.runtime.protocol import Runtime
from edge.wire.streams import FLEET, Purpose, stream
from trainer.data import Inputs, Samples
from trainer.reference import augment
from trainer.reference.settings import Settings

FloatArray: TypeAlias = NDArray[np.float32]
IntArray: TypeAlias = NDArray[np.int64]
Arrays: TypeAlias = dict[str, NDArray[Any]]
"""What is kept between rounds, or sent, by name: plain arrays, so that a run can lie on a disk without pickle."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """An upload or a broadcast."""

    arrays: Arrays
    payload: int
    """Bytes of what is coded; frames and layers below come on top (docs/wire.md)."""


NOTHING = Message(arrays={}, payload=0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    settings: Settings
    device: str
    """`streams.FLEET` at the server."""
    number: int
    round: int
    labels: int
    batch: int
    train: Samples
    """Empty at the server."""
    pool: Inputs
    """Inputs that all devices and the server hold, without labels."""
    scale: float
    runtime: Runtime
    state: FloatArray
    """(S,) of the program this site starts with."""

    def rng(self, purpose: Purpose, round_: int | None = None) -> np.random.Generator:
        return stream(self.settings.seed, self.device, self.round if round_ is None else round_, purpose)

    def floats(self, x: Inputs) -> FloatArray:
        """As the model takes them."""
        return np.multiply(x, np.float32(self.scale), dtype=np.float32, casting="unsafe")

    def onehot(self, y: NDArray[np.integer]) -> FloatArray:
        """(n,) -> (n, L)"""
        return np.asarray(np.eye(self.labels, dtype=np.float32)[y])

    def local_batches(self, size: int | None = None) -> Iterator[tuple[FloatArray, IntArray]]:
        """K batches of the device's own samples, B or `size`, shifted where the settings say so: x (b, ...), y (b,)."""
        moves = self.rng(Purpose.SHIFT)
        for chosen in batches(self.rng(Purpose.BATCHES), len(self.train), size or self.batch, self.settings.steps):
            x = self.train.x[chosen]
            if self.settings.shift:
                x = augment.shift(x, augment.draw(moves, len(x), self.settings.shift))
            yield self.floats(x), self.train.y[chosen].astype(np.int64)

    def shared_inputs(self, round_: int) -> Inputs:
        """The S inputs of round `round_`, the same at every device: drawn from the pool and shifted. Costs no byte."""
        rng = stream(self.settings.seed, FLEET, round_, Purpose.SHARED)
        turns = -(-self.settings.inputs // len(self.pool))
        order = np.concatenate([rng.permutation(len(self.pool)) for _ in range(turns)])
        x = self.pool[order[: self.settings.inputs]]
        return augment.shift(x, augment.draw(rng, len(x), self.settings.shift)) if self.settings.shift else x

    def step(self, x: FloatArray, target: FloatArray, lr: float | None = None) -> FloatArray:
        """One step on b <= B samples towards target (b, L): -> logits (b, L) before it.

        The program's batch is fixed: what is missing are rows of zeros, which add nothing, and the rest is scaled.
        """
        b = len(x)
        if b < self.batch:
            x = np.concatenate([x, np.zeros((self.batch - b, *x.shape[1:]), np.float32)])
            rows = np.zeros((self.batch - b, self.labels), np.float32)
            target = np.concatenate([target * np.float32(self.batch / b), rows])
        _, logits = self.runtime.train(x, target, self.settings.lr if lr is None else lr)
        return logits[:b]

    def predict(self, x: Inputs) -> FloatArray:
        """(n, ...) as stored -> logits (n, L)."""
        return self.runtime.predict(self.floats(x))


def batches(rng: np.random.Generator, n: int, size: int, steps: int) -> Iterator[IntArray]:
    """K times min(n, size) indices: one random order of the n samples after another, whole epochs."""
    b = min(n, size)
    queue = np.empty(0, np.int64)
    for _ in range(steps):
        while len(queue) < b:
            queue = np.concatenate([queue, rng.permutation(n)])
        yield queue[:b]
        queue = queue[b:]


class LabelMeans:
    """Running mean of the logits of each ground-truth label, taken during training (arXiv 1811.11479, Algorithm 1)."""

    def __init__(self, labels: int) -> None:
        self.sums = np.zeros((labels, labels))
        self.counts = np.zeros(labels, np.int64)

    def add(self, y: IntArray, logits: FloatArray) -> None:
        """Of one step: y (b,), logits (b, L)."""
        np.add.at(self.sums, y, logits)
        np.add.at(self.counts, y, 1)

    def rows(self) -> FloatArray:
        """(L, L), a row of zeros for a label not seen."""
        means: FloatArray = (self.sums / np.maximum(self.counts, 1)[:, None]).astype(np.float32)
        return means
