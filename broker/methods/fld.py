"""The aggregator half of FLD, MixFLD and Mix2FLD (arXiv 2006.09801): a training set of the devices' seeds, and its
targets.

Inverse mixup: m1 = lam x_p + (1 - lam) x_q of one device and m2 = (1 - lam) x_p' + lam x_q' of another give
s m1 + (1 - s) m2, whose weights on q are zero for s = lam / (2 lam - 1) and on p for s = (lam - 1) / (2 lam - 1): one
sample with the hard label p and one with q (docs/methods.md). Letters: T seeds, n samples made of them, L labels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edge.wire.messages import FloatArray, Method, Seeds

IntArray = NDArray[np.int64]

MOST_PARTNERS = 16
"""Pairs that one mixed seed is taken apart with: bounds the samples at 16 a seed. 10 devices of 50 seeds have 5."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TrainingSet:
    """n samples, each made of at most two seeds when it is asked for."""

    codes: NDArray[np.uint8]
    """(T, size) of every device, one after the other: a number is offset + scale * byte."""
    scale: NDArray[np.float64]
    """(T, 1)."""
    offset: NDArray[np.float64]
    """(T, 1)."""
    one: IntArray
    """(n,) the seed behind a sample, counted through all devices."""
    other: IntArray
    """(n,) the seed that is added to it."""
    share: NDArray[np.float64]
    """(n,) s: the sample is s times the one and 1 - s times the other."""
    labels: NDArray[np.float64]
    """(n, L) hard or soft."""

    def x(self, indices: IntArray) -> FloatArray:
        """Samples at `indices` (b,) -> (b, size)."""
        share = self.share[indices, None]  # (b, 1)
        mixed = share * self._values(self.one[indices]) + (1 - share) * self._values(self.other[indices])
        x: FloatArray = mixed.astype(np.float32)
        return x

    def _values(self, places: IntArray) -> NDArray[np.float64]:
        """Seeds at `places` (b,) -> (b, size)."""
        values: NDArray[np.float64] = self.offset[places] + self.scale[places] * self.codes[places]
        return values

    def targets(self, teacher: NDArray[np.float64], beta: float, *, normalise: bool) -> FloatArray:
        """(n, L): the label and beta times what the devices say of it, `teacher` (L, L) with rows of zeros where
        nobody says anything.
        """
        target = self.labels + beta * (self.labels @ teacher)
        if normalise:
            target /= target.sum(axis=1, keepdims=True)
        said: FloatArray = target.astype(np.float32)
        return said


def training_set(seeds: Sequence[Seeds], method: Method, lam: float, labels: int) -> TrainingSet:
    """Of the seeds of each device, in a fixed order; n may be 0. All seeds have one size."""
    eye, none = np.eye(labels), np.zeros(0, np.int64)
    first = np.concatenate([none, *(each.first.astype(np.int64) for each in seeds)])  # (T,)
    second = np.concatenate([none, *(each.second.astype(np.int64) for each in seeds)])  # (T,), raw seeds: none
    if method is Method.MIX2FLD:
        one, other, share, hard = _taken_apart(first, second, _owners(seeds), lam)
        rows = eye[hard]
    else:
        one = other = np.arange(len(first))
        share = np.ones(len(first))
        rows = eye[first] if method is Method.FLD else lam * eye[first] + (1 - lam) * eye[second]
    return TrainingSet(
        codes=np.concatenate([each.x for each in seeds]) if seeds else np.zeros((0, 1), np.uint8),
        scale=_each(seeds, [each.scale for each in seeds]),
        offset=_each(seeds, [each.offset for each in seeds]),
        one=one,
        other=other,
        share=share,
        labels=rows,
    )


def _each(seeds: Sequence[Seeds], of_device: list[float]) -> NDArray[np.float64]:
    """A number a device -> (T, 1) a number a seed."""
    return np.repeat(np.array(of_device), [len(each.first) for each in seeds])[:, None]


def _owners(seeds: Sequence[Seeds]) -> IntArray:
    """(T,) whose each seed is."""
    return np.repeat(np.arange(len(seeds)), [len(each.first) for each in seeds])


def _taken_apart(
    first: IntArray, second: IntArray, owners: IntArray, lam: float
) -> tuple[IntArray, IntArray, NDArray[np.float64], IntArray]:
    """-> one (n,), other (n,), share (n,), hard label (n,): two samples a pair, in the order of docs/methods.md."""
    pairs: list[tuple[int, int]] = []
    for p, q in np.unique(np.stack([first, second], axis=1)[first < second], axis=0).tolist():
        left = np.flatnonzero((first == p) & (second == q)).tolist()
        right = np.flatnonzero((first == q) & (second == p)).tolist()
        for u, a in enumerate(left):
            partners = [right[(u + v) % len(right)] for v in range(min(len(right), MOST_PARTNERS))]
            pairs += [(a, z) for z in partners if owners[a] != owners[z]]
    flat = np.array(pairs, np.int64).reshape(-1, 2)  # (n / 2, 2)
    shares = np.array([lam / (2 * lam - 1), (lam - 1) / (2 * lam - 1)])
    one, other = np.repeat(flat[:, 0], 2), np.repeat(flat[:, 1], 2)  # (n,)
    hard = np.stack([first[flat[:, 0]], second[flat[:, 0]]], axis=1).reshape(-1)  # (n,): p, q, p, q
    return one, other, np.tile(shares, len(flat)), hard
