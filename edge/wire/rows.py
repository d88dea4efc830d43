"""Coded rows of logits: float32, float16, or logarithmic codes of 8, 4 or 3 bits.

What federated distillation transfers sits in off-diagonals of 1e-3 to 1e-4, which linear 8 bits lose and
logarithmic 4 bits keep (docs/adr/0003). Code of a probability p at b bits:

    code = clip(round(-log2(p) * (2^b - 1) / 15), 0, 2^b - 1)      p' = 2^(-15 code / (2^b - 1)), row renormalised

Letters: R rows, L labels, b bits.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

LOG_BITS = (8, 4, 3)
FLOAT_BITS = (32, 16)


@dataclass(frozen=True, slots=True, kw_only=True)
class CodedRows:
    """(R, L) logits as they travel. Decoding is `values()`; two coded rows are equal when their bytes are."""

    rows: int
    labels: int
    bits: int
    data: bytes
    """Little-endian floats, or codes packed most significant bit first, zero-padded to a whole byte."""

    def __post_init__(self) -> None:
        if self.bits not in LOG_BITS + FLOAT_BITS:
            raise ValueError("bits is 32, 16, 8, 4 or 3")
        if self.rows < 0 or self.labels < 1:
            raise ValueError("rows >= 0, labels >= 1")
        if len(self.data) != (self.rows * self.labels * self.bits + 7) // 8:
            raise ValueError("as many bytes as the shape asks for")

    def values(self) -> NDArray[np.float32]:
        """(R, L) probability rows, each summing to 1."""
        raise NotImplementedError
