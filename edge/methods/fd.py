"""The device half of federated distillation (arXiv 1811.11479, Algorithm 1): what to upload, whom to learn from.

Where the paper is open, ours: the mean runs over the devices that hold a label; one broadcast, own row included, serves
all, and each device takes its own row out; a label that nobody else sent has no teacher. "Logits" are softmax outputs.
Letters: L labels, B samples of a step, R rows (labels seen).
"""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from edge.wire.messages import Plan, UintArray, Upload
from edge.wire.rows import read_both

FloatArray: TypeAlias = NDArray[np.float32]

_TINY = 1e-300
"""Less than the sum of any row that has a number in it: what a row of zeros is divided by, to stay one."""


class LabelMeans:
    """A running mean of logits per ground-truth label, taken *during* training as the paper does, not after it."""

    __slots__ = ("_counts", "_one_hot", "_sums")

    def __init__(self, labels: int) -> None:
        self._one_hot = np.eye(labels)  # (L, L)
        self._sums = np.zeros((labels, labels))  # (L, L)
        self._counts = np.zeros(labels, np.int64)  # (L,)

    def add(self, y: NDArray[np.integer], logits: FloatArray) -> None:
        """One step's samples: labels y (B,), logits (B, L) before the step."""
        held = self._one_hot.take(y, axis=0)  # (B, L)
        self._sums += held.T.dot(logits)  # (L, B) (B, L)
        self._counts += np.bincount(y, minlength=len(self._counts))

    @property
    def counts(self) -> UintArray:
        """(L,) samples added of each label."""
        return self._counts.astype(np.uint32)

    def rows(self) -> FloatArray:
        """(R, L) mean logits of the labels seen, in label order; NaN where training has diverged."""
        seen = self._counts.nonzero()[0]  # (R,)
        means: FloatArray = (self._sums.take(seen, axis=0) / self._counts.take(seen)[:, None]).astype(np.float32)
        return means


def teacher(plan: Plan, counted: Upload | None) -> FloatArray:
    """The teacher (L, L) that a plan's rows say to a device whose `counted` rows are in them; None: none of its are."""
    n = plan.contributors  # (L,)
    if counted is None or plan.logits is None:
        mean = _by_label(None if plan.logits is None else plan.logits.values(), n)
        return leave_one_out(mean, n, np.zeros_like(mean), np.zeros_like(n), False)
    G, F = read_both(plan.logits, counted.logits)
    return leave_one_out(_by_label(G, n), n, _by_label(F, counted.counts), counted.counts, True)


def _by_label(rows: FloatArray | None, holders: UintArray) -> FloatArray:
    """Rows (R, L) of the labels with holders > 0 -> (L, L), zeros elsewhere; None where R is 0."""
    L = len(holders)
    if rows is not None and len(rows) == L:
        return rows
    placed = np.zeros((L, L), np.float32)
    if rows is not None:
        placed[holders.nonzero()[0]] = rows
    return placed


def leave_one_out(
    mean: FloatArray,
    contributors: UintArray,
    own: FloatArray,
    own_counts: UintArray,
    in_cohort: bool,
) -> FloatArray:
    """The teacher (L, L): for each label the mean over the *other* devices that sent it, zeros where there is none.

    `mean` (L, L) are the plan's rows G (any number where `contributors` (L,) is 0); `own` (L, L) the rows F that this
    device sent, *as they were quantised*, zeros where `own_counts` (L,) is 0; `in_cohort` whether they are in G.
    The own row comes out as (n G - F) / (n - 1). G and F were each rounded to their codes, so this may fall a little
    below 0 where the others say almost 0: it is clipped there, and the row renormalised.
    """
    mine = own_counts.astype(bool) & in_cohort  # (L,)
    n = contributors * (contributors > mine)  # (L,) 0 where nobody else sent the label
    total = n[:, None] * mean  # (L, L) float64: the sum over all, from here on over the others
    if in_cohort:
        total -= own
    np.maximum(total, 0, out=total)
    size = np.maximum(total.sum(axis=1), _TINY)  # (L,)
    others: FloatArray = (total / size[:, None]).astype(np.float32)
    return others
