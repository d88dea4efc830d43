"""The aggregator half of federated learning: the mean of the parameters, weighted by samples (arXiv 1602.05629)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from edge.wire.messages import FloatArray, ParameterUpload


def average(uploads: Sequence[ParameterUpload]) -> FloatArray:
    """D uploads of one round -> (P,) float32; summed in float64, one device after another (no (D, P) array).

    Raises ValueError without uploads, or when they have different numbers of parameters.
    """
    if not uploads:
        raise ValueError("a mean needs at least one upload")
    total = np.zeros(len(uploads[0].parameters))  # (P,)
    for upload in uploads:
        if upload.parameters.shape != total.shape:
            raise ValueError("uploads of one round have one parameter layout: admit them first")
        total += upload.samples * upload.parameters.astype(np.float64)
    mean: FloatArray = (total / sum(upload.samples for upload in uploads)).astype(np.float32)
    return mean
