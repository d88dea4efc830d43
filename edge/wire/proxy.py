"""Proxy states: cells that tile a state space, and what agents say of them.

A cell's number is that of its place in the grid, row-major, the last component the fastest. Letters: S components of
a state, E entries.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Floats: TypeAlias = NDArray[np.float32]
Cells: TypeAlias = NDArray[np.uint32]


@dataclass(frozen=True, slots=True, kw_only=True)
class Grid:
    """Cells of equal size, `bins` of them along each component's range -r..r."""

    ranges: tuple[float, ...]
    bins: int

    def __post_init__(self) -> None:
        if self.bins < 2 or self.bins ** len(self.ranges) > 2**32:
            raise ValueError(f"at least 2 bins, and at most 2^32 cells: {self.bins} bins of {len(self.ranges)} sides")

    @property
    def cells(self) -> int:
        return int(self.bins ** len(self.ranges))

    def cell(self, states: Floats) -> Cells:
        """States (n, S) -> (n,) cells; beyond its range a component is in the outermost one."""
        ranges = np.asarray(self.ranges, np.float32)
        places = np.floor((states / ranges + np.float32(1)) * np.float32(self.bins / 2))  # (n, S)
        places = np.clip(places, 0, self.bins - 1).astype(np.int64)
        found = np.zeros(len(states), np.int64)
        for component in range(len(self.ranges)):
            found = found * self.bins + places[:, component]
        return found.astype(np.uint32)

    def centres(self, cells: Cells) -> Floats:
        """Cells (n,) -> (n, S) the states in their middles."""
        left = cells.astype(np.int64)
        places = np.empty((len(cells), len(self.ranges)), np.int64)
        for component in range(len(self.ranges) - 1, -1, -1):
            left, places[:, component] = np.divmod(left, self.bins)
        middles = (places + 0.5) * (2.0 / self.bins) - 1.0
        states: Floats = (middles * np.asarray(self.ranges)).astype(np.float32)
        return states
