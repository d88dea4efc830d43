"""Random streams: every random number of a run comes from one of these, on the device, on the aggregator and in the
reference trainer alike, so that two runs of one seed draw the same wherever they run.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

FLEET = ""
"""The device of a stream that the whole fleet shares; no device can be called so."""


class Purpose(IntEnum):
    """Last word of a random stream's seed, so that no two uses draw the same numbers. Never renumber."""

    BATCHES = 0
    """A device: its batches of local samples."""
    SEEDS = 1
    """A device: which of its samples it gives away as seeds, in the order of the upload."""
    SHARED = 2
    """The fleet: which inputs of the shared pool a round takes, and how they are shifted."""
    SHIFT = 3
    """A device: shifts of its local batches."""
    PUBLIC = 4
    """A device: its draws from the buffer of labelled shared inputs."""
    CONVERSION = 5
    """The fleet: the aggregator's batches of seeds."""
    EXPLORE = 6
    """A device: actions."""
    ENVIRONMENT = 7
    """A device: how episodes begin."""
    REPLAY = 8
    """A device: batches of the memory it distils."""
    MIXUP = 9
    """A device: mixing partners."""
    FADING = 10
    """A device: how the modelled wireless channel fades, its upload first, then its download."""


def stream(seed: int, device: str, round_: int, purpose: Purpose) -> np.random.Generator:
    """PCG64 from SeedSequence([seed, crc32(device), round, purpose]): the same wherever this round is computed.

    Raises OverflowError where seed or round is no uint32.
    """
    words = np.array([seed, zlib.crc32(device.encode()), round_, purpose], np.uint32)  # of ints it makes four arrays
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(words)))


def batches(rng: np.random.Generator, n: int, size: int, steps: int) -> Iterator[NDArray[np.int64]]:
    """K vectors of indices, of B samples each, or of all n where n < B.

    The indices run through one random order of the n samples after another: without replacement within an epoch.
    """
    b = min(n, size)
    order = rng.permutation(n)
    for _ in range(steps):
        while len(order) < b:
            order = np.concatenate([order, rng.permutation(n)])
        yield order[:b]
        order = order[b:]
