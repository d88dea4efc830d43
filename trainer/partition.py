"""Who holds which samples: seeded splits of a pool over devices. Pure.

| split            | source | what a device gets (n = samples asked for) |
|---|---|---|
| `iid`            | FedAvg, arXiv 1602.05629: shuffled, then shared out evenly | n random samples |
| `fd:K:M`         | FD, arXiv 1811.11479: K = 3 random target labels cut to M = 5 samples | its iid share, cut |
| `mix2fld:K:FEW`  | Mix2FLD, arXiv 2006.09801: 2 random labels with 2 samples, 8 with 62 | exactly n |
| `dirichlet:ALPHA`| by label: arXiv 1905.12022; NIID-Bench, arXiv 2102.02079 | n on average |
| `natural`        | the data's own devices (`npz:DIR`) | its own file, whole |

iid, fd and dirichlet deal without replacement: no sample sits on two devices. mix2fld deals every label's samples round
and round, so a sample may sit on two devices where the pool is short, never twice on one.

Letters: D devices, L labels, n samples a device.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Indices: TypeAlias = NDArray[np.int64]
Labels: TypeAlias = NDArray[np.uint8]

KINDS = ("iid", "fd", "mix2fld", "dirichlet", "natural")

FD_TARGETS, FD_KEPT = 3, 5
"""arXiv 1811.11479, section 4: with 2,000 samples a device."""
MIX_FEW_LABELS, MIX_FEW = 2, 2
"""arXiv 2006.09801: with 500 samples a device (METHODS.md, section 3, setting)."""

SMALLEST_SHARE = 2
"""A Dirichlet draw that leaves a device fewer samples is drawn again, as NIID-Bench does (there: 10)."""
REDRAWS = 1000

# Purposes of the random streams; a stream is PCG64 of [seed, purpose].
_DEAL, _TARGETS = 1, 2


class SplitError(ValueError):
    """This split cannot be made. The message says what would fit."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Split:
    """A kind and its numbers; 0 means: chosen for the number of samples (`resolve`)."""

    kind: str
    labels: int = 0
    """K: how many labels a device is short of (fd, mix2fld)."""
    kept: int = 0
    """M: samples that it keeps of each of them."""
    alpha: float = 0.0
    """Concentration (dirichlet): 0.1 is harsh, 100 nearly iid."""

    def __str__(self) -> str:
        if self.kind == "dirichlet":
            return f"dirichlet:{self.alpha:g}"
        return ":".join([self.kind, *(str(number) for number in (self.labels, self.kept) if number)])


def parse_split(text: str) -> Split:
    """`iid`, `fd`, `fd:3`, `fd:3:5`, `mix2fld`, `mix2fld:2:2`, `dirichlet:0.3`, `natural`. Raises SplitError."""
    kind, *numbers = text.strip().split(":")
    try:
        if kind in {"iid", "natural"} and not numbers:
            return Split(kind=kind)
        if kind in {"fd", "mix2fld"} and len(numbers) <= 2:
            labels, kept = [_whole(number) for number in numbers] + [0] * (2 - len(numbers))
            return Split(kind=kind, labels=labels, kept=kept)
        if kind == "dirichlet" and len(numbers) == 1 and 1e-3 <= float(numbers[0]) <= 1e6:
            return Split(kind=kind, alpha=float(numbers[0]))
    except ValueError:
        pass
    raise SplitError(
        f"unknown split {text!r}: iid, fd[:LABELS[:KEPT]] (fd:3:5), mix2fld[:LABELS[:FEW]] (mix2fld:2:2), "
        "dirichlet:ALPHA (0.001 to 1e6), or natural for npz data"
    )


def _whole(text: str) -> int:
    number = int(text)
    if number < 1:
        raise ValueError(text)
    return number


def resolve(split: Split, samples: int, label_count: int) -> Split:
    """Fill in the numbers that were left open.

    The papers' own (fd 3:5, mix2fld 2:2), but never more than a tenth (fd) or a thirtieth (mix2fld) of a label's
    fair share n/L, and at least 1: with 60 samples a device and 10 labels the paper's five would be no cut at all.
    """
    share = samples / label_count
    if split.kind == "fd":
        kept = split.kept or max(1, min(FD_KEPT, int(share / 10)))
        return Split(kind="fd", labels=split.labels or FD_TARGETS, kept=kept)
    if split.kind == "mix2fld":
        kept = split.kept or max(1, min(MIX_FEW, round(share / 30)))
        return Split(kind="mix2fld", labels=split.labels or MIX_FEW_LABELS, kept=kept)
    return split


def partition(
    split: Split, y: Labels, *, devices: int, samples: int, label_count: int, seed: int
) -> tuple[Indices, ...]:
    """Indices into the pool whose labels are y (n_pool,): one array a device, each in dealt order.

    Deterministic in its arguments. Raises SplitError.
    """
    if devices < 1 or samples < 1:
        raise SplitError(f"{devices} devices with {samples} samples each: both are at least 1")
    if split.kind != "mix2fld" and devices * samples > len(y):
        raise SplitError(
            f"{devices} devices x {samples} samples = {devices * samples}, the pool holds {len(y)}: "
            + (f"at most {len(y) // devices} samples a device" if len(y) >= devices else f"at most {len(y)} devices")
        )
    split = resolve(split, samples, label_count)
    deal = np.random.default_rng([seed, _DEAL])
    if split.kind == "iid":
        return iid(y, devices, samples, deal)
    if split.kind == "fd":
        shares = iid(y, devices, samples, deal)
        targets = np.random.default_rng([seed, _TARGETS])
        return cut_labels(y, shares, targets=split.labels, kept=split.kept, label_count=label_count, rng=targets)
    if split.kind == "mix2fld":
        return mix2fld(y, devices, samples, split=split, label_count=label_count, rng=deal)
    if split.kind == "dirichlet":
        return dirichlet(y, devices, samples, alpha=split.alpha, label_count=label_count, rng=deal)
    raise SplitError("split natural: only npz:DIR has devices of its own; give iid, fd, mix2fld or dirichlet:ALPHA")


def iid(y: Labels, devices: int, samples: int, rng: np.random.Generator) -> tuple[Indices, ...]:
    order = rng.permutation(len(y))[: devices * samples].astype(np.int64)
    return tuple(order.reshape(devices, samples))  # (D n,) -> D x (n,)


def cut_labels(
    y: Labels, shares: tuple[Indices, ...], *, targets: int, kept: int, label_count: int, rng: np.random.Generator
) -> tuple[Indices, ...]:
    """Of each device's `targets` random labels all but the first `kept` samples go (arXiv 1811.11479)."""
    if not 1 <= targets <= label_count:
        raise SplitError(f"{targets} target labels of {label_count}: at most {label_count}")
    cut = []
    for share in shares:
        chosen = rng.choice(label_count, targets, replace=False)
        labels = y[share]
        rank = np.zeros(len(share), np.int64)  # the how-manieth of its label each sample is
        for label in chosen:
            at = np.flatnonzero(labels == label)
            rank[at] = np.arange(len(at))
        left = share[rank < kept]
        cut.append(left)
    return tuple(cut)


def mix2fld(
    y: Labels, devices: int, samples: int, *, split: Split, label_count: int, rng: np.random.Generator
) -> tuple[Indices, ...]:
    """`split.labels` random labels with `split.kept` samples, the others share the rest evenly (arXiv 2006.09801)."""
    rich = label_count - split.labels
    if rich < 1:
        raise SplitError(f"mix2fld with {split.labels} scarce labels of {label_count}: at most {label_count - 1}")
    left = samples - split.labels * split.kept
    if left < rich * split.kept:
        least = label_count * split.kept
        raise SplitError(f"{split} needs at least {least} samples a device ({samples} asked for), or fewer scarce ones")
    pools = [rng.permutation(np.flatnonzero(y == label)) for label in range(label_count)]
    smallest = min(len(pool) for pool in pools)
    most = -(-left // rich)
    if most > smallest:
        raise SplitError(
            f"{split} with {samples} samples takes {most} of a label, the pool's scarcest has {smallest}: "
            f"at most {smallest * rich + split.labels * split.kept} samples a device"
        )
    dealt = np.zeros(label_count, np.int64)
    shares = []
    for _ in range(devices):
        counts = _mix_counts(rng.permutation(label_count), split, left)
        parts = [
            pools[label].take(dealt[label] + np.arange(counts[label]), mode="wrap") for label in range(label_count)
        ]
        dealt += counts
        shares.append(rng.permutation(np.concatenate(parts)))
    return tuple(shares)


def _mix_counts(order: Indices, split: Split, left: int) -> Indices:
    """(L,) samples of each label: the first labels of `order` are scarce, the next take what does not divide evenly."""
    counts = np.zeros(len(order), np.int64)
    scarce, rich = order[: split.labels], order[split.labels :]
    counts[scarce] = split.kept
    counts[rich] = left // len(rich)
    counts[rich[: left % len(rich)]] += 1
    return counts


def dirichlet(
    y: Labels, devices: int, samples: int, *, alpha: float, label_count: int, rng: np.random.Generator
) -> tuple[Indices, ...]:
    """Each label's samples go to the devices in proportions drawn from Dir_D(alpha): D n samples are dealt in all."""
    floor = min(SMALLEST_SHARE, samples)
    chosen = rng.permutation(len(y))[: devices * samples].astype(np.int64)
    for _ in range(REDRAWS):
        proportions = rng.dirichlet(np.full(devices, alpha), size=label_count)  # (L, D)
        owner = np.concatenate([_owners(row, int((y[chosen] == label).sum())) for label, row in enumerate(proportions)])
        if np.bincount(owner, minlength=devices).min() >= floor:
            by_label = np.concatenate([chosen[y[chosen] == label] for label in range(label_count)])
            return tuple(by_label[owner == device] for device in range(devices))
    raise SplitError(
        f"dirichlet:{alpha:g} leaves a device with fewer than {floor} samples in each of {REDRAWS} draws: "
        "take a larger ALPHA, fewer devices or more samples"
    )


def _owners(proportions: NDArray[np.float64], samples: int) -> Indices:
    """(n,) which device each of one label's samples goes to."""
    edges = np.floor(np.cumsum(proportions) * samples + 0.5).astype(np.int64)
    return np.searchsorted(edges[:-1], np.arange(samples), side="right").astype(np.int64)
