"""What a step trains towards. Every method is one soft-target cross entropy with its own targets.

CE(p, t) = -sum_l t_l log p_l is linear in t, so CE(p, y) + gamma CE(p, q) = CE(p, y + gamma q).
Letters: B the program's batch, n samples of this batch, L labels.
"""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

FloatArray: TypeAlias = NDArray[np.float32]


def label_targets(labels: int, teacher: FloatArray | None, *, gamma: float, normalise: bool) -> FloatArray:
    """(L, L) the target of a sample of each label: onehot(l) + gamma * teacher[l]. Made once a round.

    `teacher` is (L, L), a row of zeros where a label has no teacher; None for no teacher at all (alone, FL, round 0).
    `normalise` divides a target by its sum, 1 + gamma, so that a taught sample weighs as much as one without a
    teacher.
    """
    rows = np.eye(labels, dtype=np.float32)
    if teacher is not None:
        rows += gamma * teacher
        if normalise:
            rows /= 1 + np.float32(gamma) * teacher.any(axis=1, keepdims=True)
    return rows


def targets(y: NDArray[np.integer], rows: FloatArray, batch: int) -> FloatArray:
    """Targets (B, L) of n <= B samples with labels y (n,), which have those of `label_targets` (L, L).

    A short batch (n < B) is scaled by B/n and padded with rows of zeros, which add nothing to the loss or the
    gradient: the step is that of a mean over n samples. Raises ValueError on n > B or n = 0.
    """
    n = len(y)
    if not 1 <= n <= batch:
        raise ValueError(f"{n} samples for a batch of {batch}: give between 1 and {batch}")
    held = rows.take(y, axis=0)  # (n, L)
    if n == batch:
        return held
    target = np.zeros((batch, rows.shape[1]), np.float32)  # (B, L)
    np.multiply(held, np.float32(batch / n), out=target[:n])
    return target
