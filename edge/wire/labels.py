"""One label a sample, packed: k labels of L in w bits, so that 900 labels of 10 take 375 bytes.

Of all words of w <= 16 bits the one that spends fewest bits a label is taken, with k = floor(w log_L 2) labels in it:
L = 10: 3 labels in 10 bits (3.33 bits, 3.32 would be the least); L = 6: 5 in 13; L = 16: 1 in 4. A word is the number
whose digits in base L are its labels, the first the most significant; words follow each other, most significant bit
first. What is missing in the last word is label 0, what is missing in the last byte zero bits: one encoding.

Letters: S samples, L labels, k labels a word, w bits a word.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from edge.wire.options import ShareOptions
from edge.wire.rows import CodedRows, code_rows

WORD_BITS = 16
MOST_LABELS = 2**WORD_BITS


@lru_cache(maxsize=8)
def word(labels: int) -> tuple[int, int]:
    """L -> (k, w). Raises ValueError where a word cannot hold one label of L."""
    if not 2 <= labels <= MOST_LABELS:
        raise ValueError(f"2 to {MOST_LABELS} labels can be packed, not {labels}")
    choices = [(bits, _fitting(labels, bits)) for bits in range(1, WORD_BITS + 1)]
    bits, count = min(((w, k) for w, k in choices if k), key=lambda choice: (choice[0] / choice[1], choice[0]))
    return count, bits


def _fitting(labels: int, bits: int) -> int:
    """The largest k with L^k <= 2^w."""
    count = 0
    while labels ** (count + 1) <= 2**bits:
        count += 1
    return count


def packed_bytes(samples: int, labels: int) -> int:
    """Of S labels."""
    count, bits = word(labels)
    words = -(-samples // count)
    return (words * bits + 7) // 8


def pack_labels(values: NDArray[np.integer], labels: int) -> bytes:
    """(S,) labels, each 0 to L - 1 -> bytes. Raises ValueError on another label."""
    if values.ndim != 1 or (values.size and not 0 <= int(values.min()) <= int(values.max()) < labels):
        raise ValueError(f"labels are a vector of numbers from 0 to {labels - 1}")
    count, bits = word(labels)
    digits = np.zeros(-(-len(values) // count) * count, np.int64)
    digits[: len(values)] = values
    words = digits.reshape(-1, count) @ _powers(labels, count)  # (words, k) @ (k,) -> (words,)
    planes = (words[:, None] >> np.arange(bits - 1, -1, -1)) & 1  # (words, w)
    return np.packbits(planes.astype(np.uint8)).tobytes()


def read_labels(data: bytes, samples: int, labels: int) -> NDArray[np.int64]:
    """The inverse: -> (S,). Raises ValueError on what `pack_labels` never writes."""
    count, bits = word(labels)
    if len(data) != packed_bytes(samples, labels):
        raise ValueError(
            f"{len(data)} bytes for {samples} labels of {labels}, which take {packed_bytes(samples, labels)}"
        )
    words = -(-samples // count)
    planes = np.unpackbits(np.frombuffer(data, np.uint8))
    if planes[words * bits :].any():
        raise ValueError("the bits after the last label are zero")
    numbers = planes[: words * bits].reshape(words, bits) @ (1 << np.arange(bits - 1, -1, -1))  # (words,)
    if words and int(numbers.max()) >= labels**count:
        raise ValueError(f"a label beyond the {labels} there are")
    digits = (numbers[:, None] // _powers(labels, count)) % labels  # (words, k)
    values: NDArray[np.int64] = digits.reshape(-1).astype(np.int64)
    if values[samples:].any():
        raise ValueError("what is missing in the last word is label 0")
    return values[:samples]


def _powers(labels: int, count: int) -> NDArray[np.int64]:
    """(k,) L^(k-1) ... 1."""
    return np.power(labels, np.arange(count - 1, -1, -1, dtype=np.int64))


# ---------------------------------------------------------------- what a device, or the fleet, says of shared inputs


def votes_bytes(options: ShareOptions, labels: int) -> int:
    """Of one round's S shared inputs: packed labels, or rows of codes."""
    if options.bits == 0:
        return packed_bytes(options.inputs, labels)
    return (options.inputs * labels * options.bits + 7) // 8


def code_votes(rows: NDArray[np.float32], options: ShareOptions) -> bytes:
    """(S, L) logits -> bytes; where labels alone travel, the label of each row's largest, the lowest of equals.

    Raises ValueError where codes travel and a row is no probability vector.
    """
    if options.bits == 0:
        return pack_labels(rows.argmax(axis=1), rows.shape[1])
    return code_rows(rows, options.bits).data


def read_votes(data: bytes, options: ShareOptions, labels: int) -> NDArray[np.float32]:
    """The inverse: -> (S, L), each row one-hot or summing to 1. Raises ValueError on what `code_votes` never writes."""
    if options.bits == 0:
        one_hot: NDArray[np.float32] = np.eye(labels, dtype=np.float32)[read_labels(data, options.inputs, labels)]
        return one_hot
    return CodedRows(rows=options.inputs, labels=labels, bits=options.bits, data=data).values()
