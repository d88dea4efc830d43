"""Coded rows of logits (float32, float16, or logarithmic codes of 8, 4 or 3 bits) and one-byte counts.

What federated distillation transfers sits in off-diagonals of 1e-3 to 1e-4, which linear 8 bits lose and
logarithmic 4 bits keep (docs/adr/0003). Code of a probability p at b bits:

    code = clip(round(-log2(p) * (2^b - 1) / 15), 0, 2^b - 1)      p' = 2^(-15 code / (2^b - 1)), row renormalised

A sample count n travels in one byte (docs/adr/0006): 0 for none, else 1 + round(16 log2 n), at most 255.

Letters: R rows, L labels, b bits.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

LOG_BITS = (8, 4, 3)
FLOAT_BITS = (32, 16)
_FLOAT_TYPES: dict[int, np.dtype[np.floating]] = {32: np.dtype("<f4"), 16: np.dtype("<f2")}

OCTAVES = 15.0
"""The smallest probability a code can say is 2^-15 = 3.1e-5: below the 1e-4 that matters, and a code is an octave at
4 bits."""

SUM_TOLERANCE = 0.01
"""A float row may miss 1 by this much. Rounding to float16 costs at most 2^-11 of the sum; the rest is slack."""


class NotFiniteError(ValueError):
    """NaN or infinity where a number must stand: training has diverged."""


def _probabilities(bits: int) -> NDArray[np.float64]:
    """(2^b,) what each code says, before its row is renormalised."""
    top = 2**bits - 1
    said: NDArray[np.float64] = np.exp2(-OCTAVES * np.arange(top + 1) / top)
    return said


_PROBABILITIES = {bits: _probabilities(bits) for bits in LOG_BITS}


def _of_bytes() -> NDArray[np.float64]:
    """(256, 2) what the two 4-bit codes in each byte say."""
    byte = np.arange(256)
    return _PROBABILITIES[4][np.stack((byte >> 4, byte & 15), axis=1)]


_OF_BYTES = {8: _PROBABILITIES[8][:, None], 4: _of_bytes()}
"""(256, codes a byte) what each byte says, as `_PROBABILITIES`; codes of 3 bits cross from byte to byte."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CodedRows:
    """(R, L) logits as they travel. Decoding is `values()`; two coded rows are equal when their bytes are."""

    rows: int
    labels: int
    bits: int
    data: bytes
    """Little-endian floats, or codes packed most significant bit first, zero-padded to a whole byte."""

    def __post_init__(self) -> None:
        if self.bits not in LOG_BITS and self.bits not in FLOAT_BITS:
            raise ValueError("bits is 32, 16, 8, 4 or 3")
        if self.rows < 0 or self.labels < 1:
            raise ValueError("rows >= 0, labels >= 1")
        used = self.rows * self.labels * self.bits
        if len(self.data) != (used + 7) // 8:
            raise ValueError("as many bytes as the shape asks for")
        if self.bits in FLOAT_BITS:
            _check_probabilities(self._floats())
        elif used % 8 and self.data[-1] & (0xFF >> used % 8):
            raise ValueError("the bits after the last code are zero")

    def values(self) -> NDArray[np.float32]:
        """(R, L) probability rows, each summing to 1 (to float32's rounding)."""
        values: NDArray[np.float32] = read_rows([self])[0]
        return values

    def _floats(self) -> NDArray[np.floating]:
        return np.frombuffer(self.data, _FLOAT_TYPES[self.bits]).reshape(self.rows, self.labels)


def read_rows(coded: Sequence[CodedRows]) -> NDArray[np.float32]:
    """U coded rows of one shape and one width -> (U, R, L) probability rows, each summing to 1. U is at least 1."""
    first = coded[0]
    shape = (len(coded), first.rows, first.labels)
    if any((one.rows, one.labels, one.bits) != (first.rows, first.labels, first.bits) for one in coded):
        raise ValueError("rows read together have one shape and one width")
    return _read(b"".join([one.data for one in coded]), shape, first.bits)


def read_both(first: CodedRows, second: CodedRows) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """(R, L) and (R', L) that two coded rows say: at once, in half the time, where their bytes can be joined."""
    R, L, bits = first.rows, first.labels, first.bits
    if (L, bits) != (second.labels, second.bits) or R * L * bits % 8:
        return first.values(), second.values()
    values = _read(first.data + second.data, (1, R + second.rows, L), bits)[0]
    return values[:R], values[R:]


def _read(data: bytes, shape: tuple[int, int, int], bits: int) -> NDArray[np.float32]:
    """Bytes of U coded rows, one after the other -> (U, R, L)."""
    if bits in FLOAT_BITS:
        rows = np.frombuffer(data, _FLOAT_TYPES[bits]).reshape(shape).astype(np.float64)
    else:
        rows = _said(np.frombuffer(data, np.uint8).reshape(shape[0], -1), shape, bits)
    normal: NDArray[np.float32] = (rows / np.add.reduce(rows, axis=2, keepdims=True)).astype(np.float32)
    return normal


def code_rows(values: NDArray[np.floating], bits: int) -> CodedRows:
    """Code probability rows (R, L) at 32, 16, 8, 4 or 3 bits.

    Raises `NotFiniteError` on NaN or infinity, ValueError on a row that is no probability vector.
    """
    if values.ndim != 2:
        raise ValueError(f"rows are a matrix (R, L), not of shape {values.shape}")
    _check_probabilities(values)
    if bits in FLOAT_BITS:
        data = np.ascontiguousarray(values, dtype=_FLOAT_TYPES[bits]).tobytes()
    elif bits in LOG_BITS:
        # A probability may be a little above 1, and its code is 0 like that of 1.
        octaves = np.log2(np.maximum(values, 2**-OCTAVES, dtype=np.float64))
        data = _pack(np.rint(octaves * ((1 - 2**bits) / OCTAVES)).astype(np.uint8).ravel(), bits)
    else:
        raise ValueError("bits is 32, 16, 8, 4 or 3")
    return CodedRows(rows=values.shape[0], labels=values.shape[1], bits=bits, data=data)


def _check_probabilities(rows: NDArray[np.floating]) -> None:
    """Of (R, L) floats: finite, 0 to 1, each row's sum 1 within `SUM_TOLERANCE`."""
    least = float(np.minimum.reduce(rows, axis=None, initial=0))  # NaN where any number is
    sums = np.add.reduce(rows, axis=1, dtype=np.float64).tolist()
    # No number >= 0 is more than its row's sum, so the largest need not be looked for where these are right.
    if least >= 0 and max(sums, default=1) - 1 <= SUM_TOLERANCE and 1 - min(sums, default=1) <= SUM_TOLERANCE:
        return
    if not np.isfinite(rows).all():
        raise NotFiniteError("logits are finite: training has diverged, lower the learning rate")
    if least < 0 or float(rows.max(initial=0)) > 1 + SUM_TOLERANCE:
        raise ValueError("logits are probabilities, 0 to 1")
    raise ValueError("each row of logits sums to 1")


_HEX = b"0123456789abcdef".ljust(256)
"""4-bit code -> its digit: two codes are a byte as two digits are."""


def _pack(codes: NDArray[np.uint8], bits: int) -> bytes:
    """Codes (R*L,) -> their low `bits` bits, one after the other, most significant first."""
    if bits == 8:
        return codes.tobytes()
    if bits == 4 and len(codes) % 2 == 0:
        return bytes.fromhex(codes.tobytes().translate(_HEX).decode())
    planes = np.unpackbits(codes[:, None], axis=1)[:, 8 - bits :]  # (R*L, 8) -> (R*L, b)
    return np.packbits(planes).tobytes()


def _said(raw: NDArray[np.uint8], shape: tuple[int, int, int], bits: int) -> NDArray[np.float64]:
    """Packed codes (U, bytes) -> (U, R, L) what they say, before rows are renormalised."""
    count = shape[1] * shape[2]
    if bits in _OF_BYTES:
        said = _OF_BYTES[bits].take(raw, axis=0).reshape(len(raw), -1)
        return said[:, :count].reshape(shape)
    planes = np.unpackbits(raw, axis=1, count=count * bits).reshape(len(raw), count, bits)
    weights = 1 << np.arange(bits - 1, -1, -1, dtype=np.uint8)
    return _PROBABILITIES[bits][(planes @ weights).astype(np.uint8)].reshape(shape)


# ---------------------------------------------------------------- counts of samples, one byte each

COUNT_STEPS = 16
"""Codes an octave: a count is known to within 2^(1/32) - 1 = 2.2 %, up to 60,097."""

_LARGEST_COUNT = 60_097


def _count_codes() -> NDArray[np.uint8]:
    """(60098,) the code of each count; a table, because it is looked up three times a round on the smallest board."""
    counts = np.arange(_LARGEST_COUNT + 1, dtype=np.float64)
    codes: NDArray[np.float64] = np.rint(COUNT_STEPS * np.log2(np.maximum(counts, 1))) + 1  # 1 for a count of 1
    codes[0] = 0
    return codes.astype(np.uint8)


_COUNT_CODES = _count_codes()


def code_counts(counts: NDArray[np.integer]) -> bytes:
    """(L,) counts >= 0 -> L bytes. 0 and 1 are exact; what is above 60,097 is coded as 60,097."""
    if counts.ndim != 1 or (counts.dtype.kind != "u" and counts.size and int(counts.min()) < 0):
        raise ValueError("counts are a vector of numbers >= 0")
    codes: NDArray[np.uint8] = _COUNT_CODES.take(np.minimum(counts, _LARGEST_COUNT))
    return codes.tobytes()


def _counts() -> NDArray[np.uint32]:
    """(256,) what each code says."""
    said = np.rint(np.exp2((np.arange(256) - 1) / COUNT_STEPS))
    said[0] = 0
    return said.astype(np.uint32)


_COUNTS = _counts()
_CANONICAL = code_counts(_COUNTS)  # several small codes say one count (2 to 8 all say 1): only one of them is sent


def read_counts(codes: bytes) -> NDArray[np.uint32]:
    """L bytes -> (L,) counts; monotone. Raises ValueError on a code that `code_counts` never writes."""
    if codes.translate(_CANONICAL) != codes:
        raise ValueError("every count has one code, the one docs/wire.md gives")
    counts = _COUNTS.take(np.frombuffer(codes, np.uint8))
    counts.setflags(write=False)
    return counts
