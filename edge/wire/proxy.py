"""Proxy states: cells that tile a state space, and what agents say of them.

A cell's number is that of its place in the grid, row-major, the last component the fastest. Letters: S components of
a state, E entries.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from edge.wire.arithmetic import Model, Reader, Writer, read_tree, write_tree
from edge.wire.rows import NotFiniteError

Floats: TypeAlias = NDArray[np.float32]
Cells: TypeAlias = NDArray[np.uint32]
Codes: TypeAlias = NDArray[Any]
"""Small whole numbers."""


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


# ---------------------------------------------------------------- policies and values as codes

POLICY_BITS = (8, 4)


def code_policies(policies: Floats, cells: Cells, bits: int) -> Codes:
    """Probabilities (E, A) -> (E, A-1) codes of log2(p_a / p_0), in octaves (4 bits) or sixteenths of one (8 bits).

    Each code is shifted by a fraction of a step that its cell gives, and read with the same shift: what is lost to
    rounding differs from cell to cell and is nothing on average. (Without it, agents that had learnt less than half
    an octave were told "as before" by every exchange, and never learnt: docs/rl.md.) A code is at most 2^(bits-1) - 1.
    Raises ValueError on what is no probability.
    """
    if bits not in POLICY_BITS or policies.ndim != 2 or policies.shape[1] < 2:
        raise ValueError("policies are a matrix (E, A), A >= 2, at 8 or 4 bits")
    if not (np.isfinite(policies).all() and (policies >= 0).all()):
        raise NotFiniteError("policies are probabilities: training has diverged, lower the learning rate")
    octaves = np.log2(np.maximum(policies.astype(np.float64), SMALLEST))
    largest = _largest(bits)
    codes = np.rint((octaves[:, 1:] - octaves[:, :1]) * _per_octave(bits) - _shifts(cells, policies.shape[1] - 1))
    found: Codes = np.clip(codes, -largest, largest).astype(np.int8)
    return found


def read_policies(codes: Codes, cells: Cells, bits: int) -> Floats:
    """(E, A-1) -> (E, A) probabilities, each row's sum 1 to float32's rounding."""
    ratios = np.exp2((codes.astype(np.float64) + _shifts(cells, codes.shape[1])) / _per_octave(bits))
    whole = np.concatenate([np.ones((len(codes), 1)), ratios], axis=1)
    policies: Floats = (whole / whole.sum(axis=1, keepdims=True)).astype(np.float32)
    return policies


def _shifts(cells: Cells, width: int) -> NDArray[np.float64]:
    """(E, width) of a step, -1/2 to 1/2: multiples of the golden ratio, which spread evenly over any run of cells."""
    places = cells.astype(np.uint64)[:, None] * np.uint64(width) + np.arange(width, dtype=np.uint64)
    turned: NDArray[np.uint64] = np.asarray(places * np.uint64(_GOLDEN), np.uint64) % np.uint64(2**32)
    shifts: NDArray[np.float64] = turned.astype(np.float64) / 2.0**32 - 0.5
    return shifts


_GOLDEN = 2654435769
"""2^32 / golden ratio (Knuth, The Art of Computer Programming, volume 3, section 6.4)."""

SMALLEST = 2.0**-15
"""A probability below this is taken for it, as in `edge.wire.rows`."""


def _largest(bits: int) -> int:
    return int(2 ** (bits - 1) - 1)


def _per_octave(bits: int) -> int:
    return {4: 1, 8: 16}[bits]


def code_values(values: Floats) -> tuple[tuple[float, float], Codes]:
    """(E,) -> (least, largest) as float32, (E,) codes 0..255 between them."""
    if not np.isfinite(values).all():
        raise NotFiniteError("values are finite: training has diverged, lower the learning rate")
    least, largest = float(values.min(initial=0)), float(values.max(initial=0))
    width = (largest - least) or 1.0
    return (least, largest), np.rint((values.astype(np.float64) - least) * (255 / width)).astype(np.uint8)


def read_values(span: tuple[float, float], codes: Codes) -> Floats:
    least, largest = span
    values: Floats = (least + codes.astype(np.float64) * ((largest - least) / 255)).astype(np.float32)
    return values


# ---------------------------------------------------------------- a memory as bytes

MOST_ENTRIES = 200_000
"""Of one memory; a busy fleet's 25 episodes of CartPole at 30 bins are 5,000."""

_SIZES = 6
"""Bits that say how long a gap is: 2^32 cells have gaps of up to 33 bits."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ProxyMemory:
    """E cells and what somebody (one agent, or the mean of many) does there. Two are equal when their bytes are."""

    bins: int
    components: int
    """S."""
    actions: int
    bits: int
    """Of a policy code: 8 or 4."""
    span: tuple[float, float] | None
    """Least and largest value; None: no values."""
    entries: int
    data: bytes
    """Gaps between the ascending cells, policy codes, value codes: `edge.wire.arithmetic` with the models below."""
    cells: Cells = field(init=False)
    """(E,) ascending; read from `data`, as are the next two."""
    policies: Floats = field(init=False)
    """(E, A)."""
    values: Floats | None = field(init=False)
    """(E,)."""

    def __post_init__(self) -> None:
        if not 2 <= self.actions <= 64 or self.bits not in POLICY_BITS:
            raise ValueError("2 to 64 actions, policies at 8 or 4 bits")
        if not (self.bins >= 2 and 1 <= self.components <= 32 and self.bins**self.components <= 2**32):
            raise ValueError("at least 2 bins and one component, at most 2^32 cells")
        if not 0 <= self.entries <= min(MOST_ENTRIES, self.cells_there_are):
            raise ValueError(f"at most {MOST_ENTRIES} entries, and no more than there are cells")
        if self.span is not None and not -1e30 < self.span[0] <= self.span[1] < 1e30:
            raise ValueError("values lie between a least and a largest one")
        if self.data.endswith(b"\0"):
            raise ValueError("zeros at a memory's end are left out")
        cells, codes, values = _unpack(self)
        arrays = {"cells": cells, "policies": read_policies(codes, cells, self.bits), "values": values}
        for name, array in arrays.items():
            if array is not None:
                array.setflags(write=False)
            object.__setattr__(self, name, array)

    @property
    def cells_there_are(self) -> int:
        return int(self.bins**self.components)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ProxyMemory) and self._key() == other._key()

    def __hash__(self) -> int:
        return hash(self._key())

    def _key(self) -> tuple[object, ...]:
        return (self.bins, self.components, self.actions, self.bits, self.span, self.entries, self.data)


def code_memory(
    grid: Grid, cells: Cells, policies: Floats, values: Floats | None = None, *, bits: int = 4
) -> ProxyMemory:
    """Ascending cells (E,), policies (E, A), values (E,) or None -> a memory that says them as codes."""
    if len(cells) and not (cells[0] >= 0 and (np.diff(cells.astype(np.int64)) > 0).all() and cells[-1] < grid.cells):
        raise ValueError("cells ascend and lie in the grid")
    codes = code_policies(policies, cells, bits)
    span, value_codes = (None, None) if values is None else code_values(values)
    if span is not None:
        span = (float(np.float32(span[0])), float(np.float32(span[1])))
    return ProxyMemory(
        bins=grid.bins,
        components=len(grid.ranges),
        actions=policies.shape[1],
        bits=bits,
        span=span,
        entries=len(cells),
        data=_pack(cells, codes, value_codes, bits),
    )


def _pack(cells: Cells, codes: Codes, values: Codes | None, bits: int) -> bytes:
    writer, models = Writer(), _Models(bits)
    before, size, last = -1, 0, [0] * codes.shape[1]
    rows, singles = codes.tolist(), [] if values is None else values.tolist()
    value = 128
    for entry, cell in enumerate(cells.tolist()):
        gap = cell - before
        shape = min(size, _SHAPES - 1)
        size = gap.bit_length()
        write_tree(writer, models.sizes, shape << _SIZES, size, _SIZES)
        _write_mantissa(writer, models, gap, size)
        for action, code in enumerate(rows[entry]):
            write_tree(writer, models.policies, models.policy(last[action], size), code + _offset(bits), bits)
        before, last = cell, rows[entry]
        if values is not None:
            write_tree(writer, models.values, 0, (singles[entry] - value) & 255, 8)
            value = singles[entry]
    return writer.finish()


def _unpack(memory: ProxyMemory) -> tuple[Cells, Codes, Floats | None]:
    """Raises ValueError where the bytes leave the grid or say what `code_memory` never writes."""
    reader, models, bits = Reader(memory.data), _Models(memory.bits), memory.bits
    width, limit = memory.actions - 1, memory.cells_there_are
    cells, rows, values = [], [], []
    cell, size, last, value = -1, 0, [0] * width, 128
    for _ in range(memory.entries):
        shape = min(size, _SHAPES - 1)
        size = read_tree(reader, models.sizes, shape << _SIZES, _SIZES)
        if not 1 <= size <= 33:
            raise ValueError("a gap between cells is 1 to 33 bits long")
        cell += _read_mantissa(reader, models, size)
        if cell >= limit:
            raise ValueError("a cell outside the grid")
        last = [
            read_tree(reader, models.policies, models.policy(last[action], size), bits) - _offset(bits)
            for action in range(width)
        ]
        if min(last) < -_largest(bits):
            raise ValueError("a policy code that is never written")
        cells.append(cell)
        rows.append(last)
        if memory.span is not None:
            value = (value + read_tree(reader, models.values, 0, 8)) & 255
            values.append(value)
    codes = np.array(rows, np.int8).reshape(memory.entries, width)
    found = None if memory.span is None else read_values(memory.span, np.array(values, np.uint8))
    return np.array(cells, np.uint32), codes, found


_SHAPES = 8
"""Contexts of a gap's size: the size before it, up to this."""


class _Models:
    def __init__(self, bits: int) -> None:
        self.sizes = Model(_SHAPES << _SIZES)
        self.mantissas = Model(64 * 8)
        self.bits = bits
        self.policies = Model(2 << (2 * bits))
        self.values = Model(256)

    def policy(self, before: int, size: int) -> int:
        """Where the contexts of a policy code begin: of the code before it, and whether the cell is the next one."""
        return ((before + _offset(self.bits)) << (self.bits + 1)) | ((size > 1) << self.bits)


def _offset(bits: int) -> int:
    return 1 << (bits - 1)


def _write_mantissa(writer: Writer, models: _Models, gap: int, size: int) -> None:
    """The bits of a gap after its first: two in the context of its size, the rest as they are."""
    known = min(size - 1, 2)
    if known:
        left = size - 1 - known
        write_tree(writer, models.mantissas, size << 3, gap >> left & ((1 << known) - 1), known)
        writer.even(gap & ((1 << left) - 1), left)


def _read_mantissa(reader: Reader, models: _Models, size: int) -> int:
    known = min(size - 1, 2)
    if not known:
        return 1
    left = size - 1 - known
    gap = 1 << known | read_tree(reader, models.mantissas, size << 3, known)
    return gap << left | reader.even(left)


# ---------------------------------------------------------------- raw memories (PD)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Pairs:
    """n states as they were, each with its policy: what FRD's cells are instead of."""

    components: int
    """S."""
    numbers: Floats
    """(n, S + A - 1) float32: the state, then the probabilities of every action but the first."""

    def __post_init__(self) -> None:
        if self.numbers.ndim != 2 or self.numbers.dtype != np.float32:
            raise ValueError("pairs are a matrix of float32")
        if not 1 <= self.components < self.numbers.shape[1] or len(self.numbers) > MOST_ENTRIES:
            raise ValueError(f"a state and a policy a row, at most {MOST_ENTRIES} rows")
        if not np.isfinite(self.numbers).all():
            raise NotFiniteError("pairs are finite: training has diverged, lower the learning rate")
        rest = self.numbers[:, self.components :]
        if not ((rest >= 0).all() and (rest.sum(axis=1, dtype=np.float64) <= 1 + SLACK).all()):
            raise ValueError("a policy's probabilities are not negative, and their sum is at most 1")
        if self.numbers.flags.writeable:
            self.numbers.flags.writeable = False

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Pairs) and self._key() == other._key()

    def __hash__(self) -> int:
        return hash(self._key())

    def _key(self) -> tuple[object, ...]:
        return self.components, self.numbers.shape, self.numbers.tobytes()

    @property
    def states(self) -> Floats:
        """(n, S)."""
        return self.numbers[:, : self.components]

    @property
    def policies(self) -> Floats:
        """(n, A)."""
        rest = self.numbers[:, self.components :]
        first = np.maximum(np.float32(1) - rest.sum(axis=1, keepdims=True), np.float32(0))
        return np.concatenate([first, rest], axis=1)


SLACK = 1e-4
"""By which rounding to float32 may make a sum of probabilities larger than 1."""


def pair(states: Floats, policies: Floats) -> Pairs:
    """States (n, S), policies (n, A)."""
    return Pairs(components=states.shape[1], numbers=np.concatenate([states, policies[:, 1:]], axis=1))
