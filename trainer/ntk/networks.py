"""Real networks in NTK parameterisation, trained by plain gradient descent on the papers' losses.

    f(x) = sqrt(2/m) V relu(W x / sqrt d),   W (m, d), V (L, m), all entries from N(0, 1)

Letters: m width, d inputs, n samples, L outputs, K networks. Everything is float64.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.func import vjp

from trainer.data import Dataset, Samples
from trainer.ntk.kernels import Parameters

Residuals = Callable[[int, Sequence[Tensor]], Sequence[Tensor]]
"""(step, each network's outputs (n_k, L)) -> each network's dLoss/df (n_k, L)."""


def two_layer(parameters: Parameters, x: Tensor) -> Tensor:
    """X (n, d) -> f (n, L)."""
    w, v = parameters["W"], parameters["V"]
    hidden = torch.relu(x @ w.T / w.shape[1] ** 0.5)  # (n, m)
    f: Tensor = hidden @ v.T * (2 / w.shape[0]) ** 0.5  # (n, L)
    return f


def initial(width: int, inputs: int, outputs: int, seed: int) -> Parameters:
    random = torch.Generator().manual_seed(seed)
    return {
        "W": torch.randn(width, inputs, generator=random, dtype=torch.float64),
        "V": torch.randn(outputs, width, generator=random, dtype=torch.float64),
    }


# ---------------------------------------------------------------- samples


@dataclass(frozen=True, slots=True, kw_only=True)
class Points:
    """Balanced over the first `classes` labels; each x has norm sqrt d."""

    train: Tensor
    """(n, d)"""
    train_label: Tensor
    """(n,)"""
    unseen: Tensor
    """(M, d)"""
    unseen_label: Tensor
    """(M,)"""
    classes: int

    @property
    def all(self) -> Tensor:
        """(n + M, d)"""
        return torch.cat([self.train, self.unseen])

    @property
    def labels(self) -> Tensor:
        """(n, L) one-hot."""
        return torch.eye(self.classes, dtype=torch.float64)[self.train_label]


def draw_points(dataset: Dataset, *, train: int, unseen: int, classes: int, seed: int) -> Points:
    """From the pool and from the test set, so that no point is in both. Raises ValueError where they do not suffice."""
    random = np.random.default_rng(seed)
    seen_x, seen_y = _balanced(dataset.pool, train, classes, random)
    unseen_x, unseen_y = _balanced(dataset.test, unseen, classes, random)
    return Points(train=seen_x, train_label=seen_y, unseen=unseen_x, unseen_label=unseen_y, classes=classes)


def _balanced(samples: Samples, count: int, classes: int, random: np.random.Generator) -> tuple[Tensor, Tensor]:
    chosen = []
    for label in range(classes):
        share = count // classes + (label < count % classes)
        held = np.flatnonzero(samples.y == label)
        if len(held) < share:
            raise ValueError(f"{share} samples of label {label} are wanted, the data has {len(held)}: ask for fewer")
        chosen.append(random.choice(held, share, replace=False))
    order = np.concatenate(chosen)
    return as_points(samples.x[order]), torch.from_numpy(samples.y[order].astype(np.int64))


def as_points(x: np.ndarray) -> Tensor:
    """(n, 1, H, W) or (n, ...) -> (n, d) of norm sqrt d; images of 28 x 28 are averaged 2 x 2 to 14 x 14."""
    values = torch.from_numpy(np.asarray(x, np.float64))
    if values.shape[1:] == (1, 28, 28):
        values = torch.nn.functional.avg_pool2d(values, 2)
    flat = values.flatten(1)
    unit: Tensor = torch.nn.functional.normalize(flat)
    return unit * math.sqrt(flat.shape[1])


# ---------------------------------------------------------------- training


@dataclass(frozen=True, slots=True, kw_only=True)
class Trajectory:
    """What the networks output at the recorded steps, by (T steps, K networks)."""

    steps: tuple[int, ...]
    train: Tensor
    """(T, K, n, L)"""
    unseen: Tensor
    """(T, K, M, L)"""


def descend(
    networks: Sequence[Parameters],
    samples: Sequence[Tensor],
    unseen: Tensor,
    residuals: Residuals,
    *,
    eta: float,
    record: Sequence[int],
) -> Trajectory:
    """K networks side by side, network k on samples[k] (n, d), until the last step of `record`."""
    networks, seen, new = list(networks), [], []
    for step in range(max(record) + 1):
        passes = [vjp(two_layer, network, x) for network, x in zip(networks, samples, strict=True)]
        outputs = [done[0] for done in passes]
        if step in record:
            seen.append(torch.stack(outputs))
            new.append(torch.stack([two_layer(network, unseen) for network in networks]))
        gradients = [done[1](residual)[0] for done, residual in zip(passes, residuals(step, outputs), strict=True)]
        networks = [
            {name: value - eta * gradient[name] for name, value in network.items()}
            for network, gradient in zip(networks, gradients, strict=True)
        ]
    return Trajectory(steps=tuple(record), train=torch.stack(seen), unseen=torch.stack(new))


def log_steps(last: int, count: int = 24) -> tuple[int, ...]:
    """0, 1, 2, .. last, evenly spaced in the logarithm."""
    return tuple(sorted({0, last, *(round(last ** (i / (count - 1))) for i in range(count))}))
