"""Shifts of images by whole pixels, zeros moving in: fresh inputs that cost no bytes where both ends know the seed.

Letters: n images, C channels, H and W their sides.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from trainer.data import Inputs


def draw(rng: np.random.Generator, n: int, reach: int) -> NDArray[np.int64]:
    """(n, 2) rows and columns to move by, each -reach .. reach."""
    return rng.integers(-reach, reach + 1, size=(n, 2))


def shift(x: Inputs, by: NDArray[np.int64]) -> Inputs:
    """Images (n, C, H, W), each moved down by `by[:, 0]` and right by `by[:, 1]` (negative: up, left)."""
    n, _, H, W = x.shape
    rows = np.arange(H) - by[:, :1]  # (n, H) where each row comes from
    columns = np.arange(W) - by[:, 1:]  # (n, W)
    inside = ((rows >= 0) & (rows < H))[:, :, None] & ((columns >= 0) & (columns < W))[:, None, :]  # (n, H, W)
    moved = x[
        np.arange(n)[:, None, None, None],
        np.arange(x.shape[1])[None, :, None, None],
        rows.clip(0, H - 1)[:, None, :, None],
        columns.clip(0, W - 1)[:, None, None, :],
    ]  # (n, C, H, W)
    return np.asarray(np.where(inside[:, None], moved, x.dtype.type(0)))
