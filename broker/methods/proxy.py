"""The aggregator half of FRD and its kin (arXiv 1907.06536): the mean of the policies in each cell, or all raw pairs.

Letters: E entries, A actions.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from edge.wire.limits import MOST_MEMORY
from edge.wire.messages import MemoryUpload, PairsUpload
from edge.wire.proxy import MOST_ENTRIES, Grid, Pairs, ProxyMemory, code_memory


def merge(uploads: Sequence[MemoryUpload]) -> ProxyMemory:
    """The fleet's memory: every cell that an agent visited, with the mean over the agents that did.

    Each agent counts once in a cell, however often it was there. Values are averaged where they were told. Raises
    ValueError without uploads, or where they have not one grid: admit them first.
    """
    if not uploads:
        raise ValueError("a mean needs at least one upload")
    memories = [upload.memory for upload in uploads]
    first = memories[0]
    if any(_form(memory) != _form(first) for memory in memories):
        raise ValueError("memories of one round have one grid, as many actions and as many bits: admit them first")
    cells = np.concatenate([memory.cells for memory in memories])
    union, place, holders = np.unique(cells, return_inverse=True, return_counts=True)
    place = place.ravel()
    sums = np.zeros((len(union), first.actions))
    np.add.at(sums, place, np.concatenate([memory.policies for memory in memories]))
    policies = (sums / holders[:, None]).astype(np.float32)  # (E, A)
    kept = slice(None) if len(union) <= MOST_ENTRIES else np.sort(np.argsort(-holders, kind="stable")[:MOST_ENTRIES])
    values = None
    if all(memory.values is not None for memory in memories):
        totals = np.zeros(len(union))
        np.add.at(totals, place, np.concatenate([v for m in memories if (v := m.values) is not None]))
        values = (totals / holders).astype(np.float32)[kept]
    grid = Grid(ranges=(1.0,) * first.components, bins=first.bins)  # only its cells matter here
    return code_memory(grid, union[kept], policies[kept], values, bits=first.bits)


def _form(memory: ProxyMemory) -> tuple[int, int, int, int]:
    return memory.bins, memory.components, memory.actions, memory.bits


def gather(uploads: Sequence[PairsUpload]) -> Pairs:
    """All pairs, one agent after another; of too many for a frame the newest. Raises ValueError as above."""
    if not uploads:
        raise ValueError("a memory needs at least one upload")
    width = uploads[0].pairs.numbers.shape[1]
    if any(upload.pairs.numbers.shape[1] != width for upload in uploads):
        raise ValueError("pairs of one round have one width: admit them first")
    most = min(MOST_ENTRIES, MOST_MEMORY // (4 * width)) // len(uploads)
    numbers = np.concatenate([upload.pairs.numbers[-most:] for upload in uploads])
    return Pairs(components=uploads[0].pairs.components, numbers=numbers)
