"""The aggregator half of federated distillation (arXiv 1811.11479, Algorithm 1): the mean over each label's holders.

The paper's server leaves each device's own row out and answers each device; here one broadcast with the own row in
serves all, and the device takes its row out (`edge.methods.fd.leave_one_out`). Letters: D devices, R rows, L labels.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from edge.wire.messages import UintArray, Upload
from edge.wire.rows import CodedRows, code_rows


def average(uploads: Sequence[Upload], bits: int) -> tuple[UintArray, CodedRows | None]:
    """D uploads of one round -> contributors (L,), and their mean logits (R, L) coded for the plan.

    Every holder counts once, however many samples it has (the paper's mean). None where no label has a row.
    Raises ValueError without uploads, or when they have different numbers of labels.
    """
    if not uploads:
        raise ValueError("a mean needs at least one upload")
    labels = len(uploads[0].counts)
    if any(len(upload.counts) != labels for upload in uploads):
        raise ValueError("uploads of one round have one label schema: admit them first")
    held = np.stack([upload.counts for upload in uploads]) > 0  # (D, L)
    label = np.nonzero(held)[1]  # (rows of all uploads,), device by device, in label order
    values = np.concatenate([upload.logits.values() for upload in uploads])  # (rows of all uploads, L)
    sums = np.zeros((labels, labels))
    np.add.at(sums, label, values)
    contributors = held.sum(axis=0).astype(np.uint32)  # (L,)
    sent = contributors > 0
    if not sent.any():
        return contributors, None
    return contributors, code_rows(sums[sent] / contributors[sent, None], bits)  # (R, L)
