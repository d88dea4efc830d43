"""The aggregator half of federated distillation (arXiv 1811.11479, Algorithm 1). Letters: L labels, R rows."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from edge.wire.messages import Upload
from edge.wire.rows import CodedRows, code_rows


def average(uploads: Sequence[Upload], bits: int) -> tuple[NDArray[np.uint32], CodedRows | None]:
    """-> contributors (L,), mean over each label's holders (R, L) coded at `bits`; None where nobody holds any.

    Unweighted, own row included: each device takes its own out (`edge.methods.fd.leave_one_out`).
    """
    L = len(uploads[0].counts)
    contributors = np.zeros(L, np.uint32)
    total = np.zeros((L, L))  # (L, L) float64
    for upload in uploads:
        held = upload.counts > 0  # (L,), R of them true
        contributors += held
        total[held] += upload.logits.values()
    some = contributors > 0
    if not some.any():
        return contributors, None
    return contributors, code_rows(total[some] / contributors[some, None], bits)
