"""The device half of `share`: which inputs of the pool a round takes, and the labelled ones a device trains on.

Our own (docs/methods.md); nearest in the literature: DS-FL (arXiv 2008.06180) and CFD (arXiv 2012.00632), which label
a fixed set. Letters: S shared inputs a round, M inputs of the pool, b samples, L labels, C channels, H x W pixels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from edge.wire.labels import read_votes, votes_bytes
from edge.wire.options import ShareOptions
from edge.wire.streams import FLEET, Purpose, stream

FloatArray: TypeAlias = NDArray[np.float32]
IntArray: TypeAlias = NDArray[np.int64]

IMAGE_AXES = 3
"""C, H, W: only inputs of so many axes are shifted."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Inputs:
    """Shared inputs as places in the pool and how far each is shifted."""

    indices: IntArray
    """(S,)."""
    shifts: IntArray
    """(S, 2) pixels down and to the right; zeros where nothing is shifted."""


def draw_inputs(seed: int, round_: int, options: ShareOptions, pool: int, axes: int) -> Inputs:
    """The S inputs of a round, of a pool of M, the same on every device."""
    rng = stream(seed, FLEET, round_, Purpose.SHARED)
    turns = -(-options.inputs // pool)
    order = [rng.permutation(pool) for _ in range(turns)]
    indices = np.concatenate([*order, np.zeros(0, np.int64)])[: options.inputs]
    return Inputs(indices=indices, shifts=draw_shifts(rng, options.inputs, options.shift, axes))


def draw_shifts(rng: np.random.Generator, count: int, shift: int, axes: int) -> IntArray:
    """(count, 2) from -shift to shift; zeros, and nothing drawn, for what is no image."""
    if shift == 0 or axes != IMAGE_AXES:
        return np.zeros((count, 2), np.int64)
    return rng.integers(-shift, shift + 1, (count, 2))


def shift_images(x: FloatArray, shifts: IntArray) -> None:
    """Move each of x (b, C, H, W) by its shift (b, 2), in place; zeros come in at the edges. Other shapes stay."""
    if x.ndim != IMAGE_AXES + 1:
        return
    H, W = x.shape[2:]
    far = np.clip(shifts, [-H, -W], [H, W])  # nothing is left of an image that moves further
    for image, (down, right) in zip(x, far.tolist(), strict=True):
        if down or right:
            moved = np.zeros_like(image)  # (C, H, W)
            to = slice(max(down, 0), H + min(down, 0)), slice(max(right, 0), W + min(right, 0))
            of = slice(max(-down, 0), H + min(-down, 0)), slice(max(-right, 0), W + min(-right, 0))
            moved[:, to[0], to[1]] = image[:, of[0], of[1]]
            image[:] = moved


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Labelled:
    """The labelled shared inputs of a few rounds, as one list."""

    inputs: Inputs
    rows: FloatArray
    """(m, L) the fleet's labels: one-hot, or soft."""


def gather(
    seed: int, options: ShareOptions, shared: tuple[tuple[int, bytes], ...], *, pool: int, axes: int, labels: int
) -> Labelled | None:
    """`shared`: rounds and the fleet's labels of their inputs, oldest first; None where there is nothing to train on.

    Labels of another length are those of other options: they are left out. Raises ValueError on labels that are none.
    """
    size = votes_bytes(options, labels)
    fitting = [(round_, data) for round_, data in shared if size > 0 and len(data) == size]
    if not fitting:
        return None
    drawn = [draw_inputs(seed, round_, options, pool, axes) for round_, _ in fitting]
    return Labelled(
        inputs=Inputs(
            indices=np.concatenate([inputs.indices for inputs in drawn]),
            shifts=np.concatenate([inputs.shifts for inputs in drawn]),
        ),
        rows=np.concatenate([read_votes(data, options, labels) for _, data in fitting]),
    )
