"""The device half of FLD, MixFLD and Mix2FLD (arXiv 2006.09801): the seeds it gives away, once.

A mixed pair is `lam x_i + (1 - lam) x_j` of two labels. Letters: n samples, N seeds.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge.wire.messages import Method, Seeds
from edge.wire.options import FldOptions
from edge.wire.streams import Purpose, stream


def choose_seeds(
    x: NDArray[Any], y: NDArray[np.int64], scale: float, *, seed: int, device: str, method: Method, options: FldOptions
) -> Seeds | None:
    """Of training samples x (n, ...) as stored, a value being scale * x, with labels y (n,); the same in every round.

    None where there are no pairs to be made: the device holds one label only.
    """
    order = stream(seed, device, 0, Purpose.SEEDS).permutation(len(y))[: options.seeds]  # (N,)
    step, offset = (scale, 0.0) if x.dtype == np.uint8 else _byte_scale(x, scale)
    partners = np.zeros(0, np.int64)
    codes = _codes(x[order], scale, step, offset)  # (N, size)
    if method is not Method.FLD:
        if len(np.unique(y)) < 2:
            return None
        partners = _partners(y, order, stream(seed, device, 0, Purpose.MIXUP))  # (N,)
        codes = options.lam * codes + (1 - options.lam) * _codes(x[partners], scale, step, offset)
    return Seeds(
        x=np.clip(np.rint(codes), 0, 255).astype(np.uint8),
        first=y[order].astype(np.uint32),
        second=y[partners].astype(np.uint32),
        scale=step,
        offset=offset,
    )


def _partners(y: NDArray[np.int64], order: NDArray[np.int64], rng: np.random.Generator) -> NDArray[np.int64]:
    """(N,) for each sample of `order` another one with another label."""
    others = {label: np.flatnonzero(y != label) for label in np.unique(y[order]).tolist()}
    return np.array([others[label][rng.integers(len(others[label]))] for label in y[order].tolist()], np.int64)


def _byte_scale(x: NDArray[Any], scale: float) -> tuple[float, float]:
    """-> what one step of a byte is worth, and what byte 0 is, so that every value of x has a byte; both float32."""
    low, high = scale * float(x.min()), scale * float(x.max())
    return float(np.float32((high - low) / 255)) or 1.0, float(np.float32(low))


def _codes(x: NDArray[Any], scale: float, step: float, offset: float) -> NDArray[np.float64]:
    """(N, ...) -> (N, size) in steps, not yet whole."""
    flat = x.reshape(len(x), -1)
    return flat.astype(np.float64) if x.dtype == np.uint8 else (scale * flat.astype(np.float64) - offset) / step
