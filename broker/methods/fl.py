"""The aggregator half of federated learning: FedAvg (arXiv 1602.05629). Letters: P parameters."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from edge.wire.messages import ParameterUpload


def average(uploads: Sequence[ParameterUpload]) -> NDArray[np.float32]:
    """(P,) mean of the parameters, weighted by the devices' samples."""
    total = np.zeros(len(uploads[0].parameters))  # (P,) float64
    for upload in uploads:
        total += upload.parameters.astype(np.float64) * upload.samples
    return (total / sum(upload.samples for upload in uploads)).astype(np.float32)
