"""What a row of logits, a per-sample label or a count is once it has been coded and read again, and what it weighs.

Codes by name: `float32`, `float16`; `log8`, `log4`, `log3` (code = round(-log2 p * (2^b - 1) / 15): docs/wire.md);
`linear8`, `linear4`, `linear2` (code = round(p * (2^b - 1))), kept to show why they are not used; `argmax` (the label
alone). Rows are renormalised when they are read. Written apart from edge.wire.rows, and compared with it in the tests.

Letters: R rows, L labels, b bits.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Rows: TypeAlias = NDArray[np.float64]

OCTAVES = 15
"""A log code spans 2^0 to 2^-15, as on the wire."""


def _float(kind: type[np.floating]) -> Callable[[Rows], Rows]:
    return lambda rows: rows.astype(kind).astype(np.float64)


def _log(bits: int) -> Callable[[Rows], Rows]:
    top = 2**bits - 1

    def code(rows: Rows) -> Rows:
        with np.errstate(divide="ignore"):  # log2(0) = -inf becomes the top code
            codes = np.clip(np.rint(-np.log2(rows) * top / OCTAVES), 0, top)
        read: Rows = np.exp2(-codes * OCTAVES / top)
        return read

    return code


def _linear(bits: int) -> Callable[[Rows], Rows]:
    top = 2**bits - 1

    def code(rows: Rows) -> Rows:
        read: Rows = np.rint(rows * top) / top
        return read

    return code


def _argmax(rows: Rows) -> Rows:
    return np.asarray(np.eye(rows.shape[1])[rows.argmax(axis=1)])


_CODES: dict[str, tuple[float, Callable[[Rows], Rows]]] = {
    "float32": (32, _float(np.float32)),
    "float16": (16, _float(np.float16)),
    **{f"log{bits}": (bits, _log(bits)) for bits in (8, 4, 3)},
    **{f"linear{bits}": (bits, _linear(bits)) for bits in (8, 4, 2)},
    "argmax": (0, _argmax),
}
CODES = tuple(_CODES)


def quantise(rows: NDArray[np.floating], code: str) -> NDArray[np.float32]:
    """Probability rows (R, L) as they are read at the other end; a row of which nothing is left is read as even."""
    read = _CODES[code][1](rows.astype(np.float64))  # (R, L)
    total = read.sum(axis=1, keepdims=True)  # (R, 1)
    normal = np.divide(read, total, out=np.full_like(read, 1 / rows.shape[1]), where=total > 0)
    return np.asarray(normal, np.float32)


def rows_bytes(rows: int, labels: int, code: str) -> int:
    """What R coded rows weigh; a label alone takes as many bits as L labels need (4 for ten)."""
    bits = rows * (label_bits(labels) if code == "argmax" else labels * _CODES[code][0])
    return math.ceil(bits / 8)


def label_bits(labels: int) -> int:
    return max(1, math.ceil(math.log2(labels)))


def read_counts(counts: NDArray[np.integer]) -> NDArray[np.int64]:
    """Counts (L,) as one byte each says them: steps of a sixteenth of an octave (docs/adr/0006)."""
    steps = np.rint(16 * np.log2(np.maximum(counts, 1)))
    return np.where(counts > 0, np.rint(np.exp2(steps / 16)), 0).astype(np.int64)
