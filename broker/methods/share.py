"""The aggregator half of `share`: the devices vote on the round's shared inputs, each label weighing what it is worth.

Our own (docs/methods.md). A device's word on label l weighs sqrt(samples of l it trained on), so that one that hardly
ever saw a label hardly speaks of it. Letters: S shared inputs, L labels.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from edge.wire.labels import code_votes, read_votes
from edge.wire.messages import LabelUpload
from edge.wire.options import ShareOptions


def vote(uploads: Sequence[LabelUpload], options: ShareOptions) -> bytes:
    """The devices' labels of one round's inputs -> the fleet's, as the plan carries them; nothing of nobody.

    Raises ValueError on labels that `broker.admit` would not have let in.
    """
    if not uploads:
        return b""
    L = len(uploads[0].means.counts)
    shape = (options.inputs, L)
    weighed, plain = np.zeros(shape), np.zeros(shape)  # (S, L)
    for upload in uploads:
        rows = read_votes(upload.labels, options, L)
        weighed += np.sqrt(upload.means.counts) * rows
        plain += rows
    return code_votes(_rows(weighed, plain), options)


def _rows(weighed: NDArray[np.float64], plain: NDArray[np.float64]) -> NDArray[np.float32]:
    """(S, L) scores -> rows that sum to 1; where nobody's word has weight, every word weighs alike."""
    score = np.where(weighed.any(axis=1, keepdims=True), weighed, plain)
    rows: NDArray[np.float32] = (score / score.sum(axis=1, keepdims=True)).astype(np.float32)
    return rows
