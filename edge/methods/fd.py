"""The device half of federated distillation: the others' mean out of everybody's (arXiv 1811.11479, Algorithm 1).

Letters: L labels.
"""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

FloatArray: TypeAlias = NDArray[np.float32]


def leave_one_out(
    plan_logits: FloatArray,
    contributors: NDArray[np.uint32],
    own_rows: FloatArray,
    own_counts: NDArray[np.uint32],
    in_cohort: bool,
) -> FloatArray:
    """(L, L) the mean over the other holders of each label, a row of zeros where there is none.

    `plan_logits` (L, L) is the mean over the `contributors` (L,) holders, own row included; `own_rows` (L, L) are this
    device's rows as they were quantised, where `own_counts` (L,) > 0. With n holders of a label that is
    (n G - F) / (n - 1). What the broadcast's own quantisation pushes below zero is cut, and the row sums to 1 again.
    """
    others = contributors.astype(np.int64)  # (L,)
    mine = (own_counts > 0) & (contributors > 0) & in_cohort  # (L,)
    total = plan_logits.astype(np.float64) * others[:, None]  # (L, L)
    total[mine] -= own_rows[mine]
    others[mine] -= 1
    rows = np.where(others[:, None] > 0, np.maximum(total, 0), 0)
    sums = rows.sum(axis=1, keepdims=True)  # (L, 1)
    teacher: NDArray[np.float64] = np.divide(rows, sums, out=np.zeros_like(rows), where=sums > 0)
    return teacher.astype(np.float32)
