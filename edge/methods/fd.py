"""The device half of federated distillation (arXiv 1811.11479, Algorithm 1): what to upload, whom to learn from.

Where the paper is open, ours: the mean runs over the devices that hold a label; one broadcast, own row included, serves
all, and each device takes its own row out; a label that nobody else sent has no teacher. "Logits" are softmax outputs.
Letters: L labels, B samples of a step, R rows (labels seen).
"""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from edge.wire.messages import UintArray

FloatArray: TypeAlias = NDArray[np.float32]


class LabelMeans:
    """A running mean of logits per ground-truth label, taken *during* training as the paper does, not after it."""

    __slots__ = ("_counts", "_sums")

    def __init__(self, labels: int) -> None:
        self._sums = np.zeros((labels, labels))  # (L, L)
        self._counts = np.zeros(labels, np.int64)  # (L,)

    def add(self, y: NDArray[np.integer], logits: FloatArray) -> None:
        """One step's samples: labels y (B,), logits (B, L) before the step."""
        held = np.eye(len(self._counts))[y]  # (B, L)
        self._sums += held.T @ logits  # (L, B) @ (B, L)
        self._counts += np.bincount(y, minlength=len(self._counts))

    @property
    def counts(self) -> UintArray:
        """(L,) samples added of each label."""
        return self._counts.astype(np.uint32)

    def rows(self) -> FloatArray:
        """(R, L) mean logits of the labels seen, in label order; NaN where training has diverged."""
        seen = self._counts > 0
        means: FloatArray = (self._sums[seen] / self._counts[seen, None]).astype(np.float32)
        return means


def leave_one_out(
    mean: FloatArray,
    contributors: UintArray,
    own: FloatArray,
    own_counts: UintArray,
    in_cohort: bool,
) -> FloatArray:
    """The teacher (L, L): for each label the mean over the *other* devices that sent it, zeros where there is none.

    `mean` (L, L) are the plan's rows G (any value where `contributors` (L,) is 0); `own` (L, L) the rows F that this
    device sent, *as they were quantised*, `own_counts` (L,) 0 where it sent none; `in_cohort` whether they are in G.
    The own row comes out as (n G - F) / (n - 1). G and F were each rounded to their codes, so this may fall a little
    below 0 where the others say almost 0: it is clipped there, and the row renormalised.
    """
    n = contributors.astype(np.float64)  # (L,)
    mine = (own_counts > 0) & in_cohort & (n > 0)  # (L,)
    others = n - mine  # (L,)
    total = n[:, None] * mean - np.where(mine[:, None], own, 0)  # (L, L): the sum over the others
    total = np.where(others[:, None] > 0, np.maximum(total, 0), 0)
    size = total.sum(axis=1, keepdims=True)  # (L, 1)
    teacher: FloatArray = np.divide(total, size, out=np.zeros_like(total), where=size > 0).astype(np.float32)
    return teacher
