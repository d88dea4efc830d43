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

AT_ONCE = 2**17
"""Numbers that are added up in one go: 1 MB of them stays in a cache."""


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
    held = np.concatenate([upload.counts for upload in uploads]).reshape(len(uploads), labels) > 0  # (D, L)
    sums = np.zeros((labels, labels))
    for devices in _alike(held):
        values = read_rows([uploads[device].logits for device in devices])  # (devices, rows, L)
        addends = np.zeros((1 + len(devices), labels, labels))
        addends[0] = sums
        addends[1:][held[devices]] = values.reshape(-1, labels)
        sums = addends.sum(axis=0)  # along the first axis one after another: the order is that of the devices
    contributors = held.sum(axis=0).astype(np.uint32)  # (L,)
    return contributors, sums / np.maximum(contributors, 1)[:, None]


def _alike(held: NDArray[np.bool_]) -> list[list[int]]:
    """(D, L) who holds which label -> devices with rows, in groups that sent as many: each is read in one go."""
    groups: dict[int, list[int]] = {}
    for device, rows in enumerate(held.sum(axis=1).tolist()):
        if rows:
            groups.setdefault(rows, []).append(device)
    most = max(1, AT_ONCE // held.shape[1] ** 2)
    return [devices[at : at + most] for devices in groups.values() for at in range(0, len(devices), most)]
