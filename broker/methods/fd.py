"""The aggregator half of federated distillation (arXiv 1811.11479, Algorithm 1): the mean over each label's holders.

The paper's server leaves each device's own row out and answers each device; here one broadcast with the own row in
serves all, and the device takes its row out (`edge.methods.fd.leave_one_out`). Letters: D devices, R rows, L labels.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from edge.wire.messages import UintArray, Upload
from edge.wire.rows import CodedRows, code_rows, read_rows


def average(uploads: Sequence[Upload], bits: int) -> tuple[UintArray, CodedRows | None]:
    """D uploads of one round -> contributors (L,), and their mean logits (R, L) coded for the plan.

    None where no label has a row. Errors as `mean`.
    """
    contributors, rows = mean(uploads)
    sent = contributors > 0
    if not sent.any():
        return contributors, None
    return contributors, code_rows(rows[sent], bits)  # (R, L)


def mean(uploads: Sequence[Upload]) -> tuple[UintArray, NDArray[np.float64]]:
    """D uploads of one round -> contributors (L,), and their mean logits (L, L), zeros where there are none.

    Every holder counts once, however many samples it has (the paper's mean). Raises ValueError without uploads, or
    when they have different numbers of labels.
    """
    if not uploads:
        raise ValueError("a mean needs at least one upload")
    labels = len(uploads[0].counts)
    if any(len(upload.counts) != labels for upload in uploads):
        raise ValueError("uploads of one round have one label schema: admit them first")
    held = np.stack([upload.counts for upload in uploads]) > 0  # (D, L)
    sums = np.zeros((labels, labels))
    for rows, devices in _by_rows(held).items():
        values = read_rows([uploads[device].logits for device in devices])  # (devices, rows, L)
        label = np.nonzero(held[devices])[1]  # (devices * rows,), device by device, in label order
        np.add.at(sums, label, values.reshape(len(devices) * rows, labels))
    contributors = held.sum(axis=0).astype(np.uint32)  # (L,)
    return contributors, sums / np.maximum(contributors, 1)[:, None]


def _by_rows(held: NDArray[np.bool_]) -> dict[int, list[int]]:
    """(D, L) who holds which label -> number of rows, the devices that sent so many: those are read in one go."""
    groups: dict[int, list[int]] = {}
    for device, rows in enumerate(held.sum(axis=1).tolist()):
        if rows:
            groups.setdefault(rows, []).append(device)
    return groups
