"""What networks trained with squared loss output at any time, if the kernel stays constant: KD, CD, FD.

Letters: N = n L outputs on the training points, M on unseen ones, K workers, C columns (independent problems).
Theta (N, N), cross = Theta(unseen, training) (M, N), f (N, C). `labels` Y, `teacher` f_T: (N, C).

Time is `Flow` (gradient flow) or `Descent` (gradient descent). Both answer the same two questions of a mode that decays
at `rate`, so each formula below is written once:

              decay(rate)            integral(rate) = (1 - decay) / rate
    Flow      exp(-eta t rate)       eta times the integral of exp(-eta s rate) over 0..t
    Descent   (1 - eta rate)^k       eta times the sum of (1 - eta rate)^j over j < k

A training output moves by  Theta u, an unseen one by  cross u, where u (N, C) is what was integrated: the residuals.
Derivations: docs/ntk.md. Source of KD's and CD's equations: METHODS of the project, after Rahbar et al. 2020
(2003.13438) and Lee et al. 2019 (1902.06720).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import torch
from torch import Tensor

# ---------------------------------------------------------------- time


class Clock(Protocol):
    def decay(self, rate: Tensor) -> Tensor: ...

    def integral(self, rate: Tensor) -> Tensor: ...

    def propagators(self, generator: Tensor) -> tuple[Tensor, Tensor]: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Flow:
    """Gradient flow f' = -eta Theta residual, until time t."""

    eta: float
    t: float

    def decay(self, rate: Tensor) -> Tensor:
        return torch.exp(-self.eta * self.t * rate)

    def integral(self, rate: Tensor) -> Tensor:
        still = rate == 0  # a mode that does not move: its residual is integrated as it is
        return torch.where(
            still, self.eta * self.t, -torch.expm1(-self.eta * self.t * rate) / torch.where(still, 1, rate)
        )

    def propagators(self, generator: Tensor) -> tuple[Tensor, Tensor]:
        """Of e' = -eta A e, A (N, N) of any kind: exp(-eta t A), and eta times its integral."""
        size = len(generator)
        top = torch.cat([-generator, torch.eye(size, dtype=generator.dtype)], 1)  # (N, 2N)
        both = torch.linalg.matrix_exp(self.eta * self.t * torch.cat([top, torch.zeros_like(top)]))  # (2N, 2N)
        return both[:size, :size], both[:size, size:]


@dataclass(frozen=True, slots=True, kw_only=True)
class Descent:
    """Gradient descent, `steps` steps of size eta."""

    eta: float
    steps: int

    def decay(self, rate: Tensor) -> Tensor:
        return (1 - self.eta * rate) ** self.steps

    def integral(self, rate: Tensor) -> Tensor:
        return self.eta * geometric(self.eta * rate, self.steps)

    def propagators(self, generator: Tensor) -> tuple[Tensor, Tensor]:
        """(I - eta A)^k, and eta times the sum of (I - eta A)^j over j < k."""
        size, one = len(generator), torch.eye(len(generator), dtype=generator.dtype)
        top = torch.cat([one - self.eta * generator, self.eta * one], 1)  # (N, 2N)
        both = torch.linalg.matrix_power(torch.cat([top, torch.cat([torch.zeros_like(one), one], 1)]), self.steps)
        return both[:size, :size], both[:size, size:]


def geometric(gap: Tensor, count: int) -> Tensor:
    """1 + q + ... + q^(count - 1) for q = 1 - gap, to full precision also where the gap is tiny."""
    small = torch.clamp(gap, max=0.5)
    near = torch.where(small == 0, count, -torch.expm1(count * torch.log1p(-small)) / torch.where(small == 0, 1, small))
    far = (1 - (1 - gap) ** count) / torch.where(gap == 0, 1, gap)
    return torch.where(gap < 0.5, near, far)


# ---------------------------------------------------------------- the kernel, diagonal


@dataclass(frozen=True, slots=True, kw_only=True)
class Modes:
    """Theta = Q diag(lambda) Q^T; lambda ascending, not negative."""

    values: Tensor
    """(N,)"""
    vectors: Tensor
    """(N, N), one mode a column."""

    def apply(self, factors: Tensor, f: Tensor) -> Tensor:
        """Q diag(factors) Q^T f: (N,), (N, C) -> (N, C)."""
        return self.vectors @ (factors[:, None] * (self.vectors.T @ f))


def modes(theta: Tensor) -> Modes:
    """Of a symmetric kernel (N, N); rounding below zero is cut."""
    values, vectors = torch.linalg.eigh(theta)
    return Modes(values=values.clamp(min=0), vectors=vectors)


@dataclass(frozen=True, slots=True, kw_only=True)
class Predicted:
    train: Tensor
    """(N, C), with a leading K where there are workers."""
    unseen: Tensor
    """(M, C), likewise."""


# ---------------------------------------------------------------- knowledge distillation


@dataclass(frozen=True, slots=True, kw_only=True)
class Blend:
    """Loss  label/2 |f - Y|^2 + teacher/2 |f - f_T|^2."""

    label: float
    teacher: float

    @property
    def speed(self) -> float:
        return self.label + self.teacher

    def target(self, labels: Tensor, teacher: Tensor) -> Tensor:
        """f* = (label Y + teacher f_T) / (label + teacher)."""
        return (self.label * labels + self.teacher * teacher) / (self.label + self.teacher)


def regularised(lam: float) -> Blend:
    """The papers' weight: 1 on the label, lambda on the teacher."""
    return Blend(label=1, teacher=lam)


def convex(alpha: float) -> Blend:
    """1 - alpha on the label, alpha on the teacher: the same blend as lambda = alpha / (1 - alpha), no speed-up."""
    return Blend(label=1 - alpha, teacher=alpha)


def kd(
    kernel: Modes, cross: Tensor, start: Predicted, *, labels: Tensor, teacher: Tensor, blend: Blend, clock: Clock
) -> Predicted:
    """f(t) = f* + D (f(0) - f*),  D = decay((label + teacher) Theta).

    Unseen: f(x, t) = f(x, 0) + cross Theta^-1 (I - D) (f* - f(0)). `start`: the outputs at initialisation.
    """
    target, rate = blend.target(labels, teacher), blend.speed * kernel.values
    train = target + kernel.apply(clock.decay(rate), start.train - target)
    moved = kernel.apply(blend.speed * clock.integral(rate), target - start.train)  # Theta^-1 (I - D) (f* - f(0))
    return Predicted(train=train, unseen=start.unseen + cross @ moved)


# ---------------------------------------------------------------- co-distillation


def cd_live(kernel: Modes, cross: Tensor, start: Predicted, *, labels: Tensor, lam: float, clock: Clock) -> Predicted:
    """K workers on the same data, each taught by the mean of the others as it is now. `start`: (K, N, C), (K, M, C).

    mean error       fbar(t) - Y = decay(Theta) (fbar(0) - Y)
    deviations       d_k(t) = decay((1 + lam K / (K - 1)) Theta) d_k(0)
    """
    workers = len(start.train)
    mean = start.train.mean(0)
    speed = 1 + lam * workers / (workers - 1)
    error = mean - labels
    common, common_moved = clock.decay(kernel.values), clock.integral(kernel.values)
    own, own_moved = clock.decay(speed * kernel.values), speed * clock.integral(speed * kernel.values)
    deviations = [f - mean for f in start.train]
    return Predicted(
        train=torch.stack([labels + kernel.apply(common, error) + kernel.apply(own, d) for d in deviations]),
        unseen=torch.stack(
            [
                f - cross @ (kernel.apply(common_moved, error) + kernel.apply(own_moved, d))
                for f, d in zip(start.unseen, deviations, strict=True)
            ]
        ),
    )


def cd_periodic(
    kernel: Modes,
    cross: Tensor,
    start: Predicted,
    *,
    labels: Tensor,
    lam: float,
    periods: int,
    period: Clock,
    rest: Clock | None = None,
) -> Predicted:
    """Teachers frozen between exchanges: after `periods` whole periods, and `rest` of one more.

    a = lam / (1 + lam), E = decay((1 + lam) Theta) over one period. Each period multiplies
    the mean error by  E + a (I - E)  and the deviations by  E - a / (K - 1) (I - E).
    """
    exchange = partial(_exchanges, kernel, cross, labels=labels, lam=lam)
    done = exchange(start, periods=periods, period=period)
    return done if rest is None else exchange(done, periods=1, period=rest)


def _exchanges(
    kernel: Modes, cross: Tensor, start: Predicted, *, labels: Tensor, lam: float, periods: int, period: Clock
) -> Predicted:
    workers = len(start.train)
    rate = (1 + lam) * kernel.values
    moved = (1 + lam) * period.integral(rate)  # (N,) (I - E) Theta^-1, of one period
    share = lam / (1 + lam)
    mean = start.train.mean(0)

    def after(gap: float, f: Tensor) -> tuple[Tensor, Tensor]:
        """Of an error part that `gap` (1 - E) of itself is lost of in a period: what is left; what was integrated."""
        lost = gap * moved * kernel.values  # (N,)
        left = kernel.apply((1 - lost) ** periods, f)
        return left, kernel.apply(gap * moved * geometric(lost, periods), f)

    error, common_moved = after(1 - share, mean - labels)
    parts = [after(1 + share / (workers - 1), f - mean) for f in start.train]
    return Predicted(
        train=torch.stack([labels + error + deviation for deviation, _ in parts]),
        unseen=torch.stack([f - cross @ (common_moved + own) for f, (_, own) in zip(start.unseen, parts, strict=True)]),
    )


# ---------------------------------------------------------------- federated distillation


@dataclass(frozen=True, slots=True, kw_only=True)
class Fleet:
    """K devices with their own data and kernels, stacked: N is the sum of their n_k L."""

    theta: Tensor
    """(N, N), block diagonal: a device's training moves its own model alone."""
    cross: Tensor
    """(M, N): unseen points of the devices, stacked likewise."""
    teaching: Tensor
    """(N, N): row i averages the others' means of i's label; rows of zeros where nobody else holds it."""


def fleet(thetas: Sequence[Tensor], crosses: Sequence[Tensor], labels: Sequence[Tensor], outputs: int = 1) -> Fleet:
    """Kernels (n_k L, n_k L), (M_k, n_k L) and label numbers (n_k,) of each device; L = `outputs`, in N's inner order.

    A kernel that treats all outputs alike (infinite width, trace form) is (n_k, n_k): L = 1, the outputs are columns.
    """
    one = torch.eye(outputs, dtype=torch.float64)
    teaching = torch.kron(label_teachers(labels), one)
    theta: Tensor = torch.block_diag(*thetas)  # type: ignore[no-untyped-call]
    cross: Tensor = torch.block_diag(*crosses)  # type: ignore[no-untyped-call]
    return Fleet(theta=theta, cross=cross, teaching=teaching)


def label_teachers(labels: Sequence[Tensor]) -> Tensor:
    """(N, N) T:  (T f)_i = mean over other devices j that hold label l = y_i of [their mean output on label l]."""
    device = torch.cat([torch.full((len(y),), k) for k, y in enumerate(labels)])  # (N,)
    label = torch.cat(list(labels))  # (N,)
    teaching = torch.zeros(len(label), len(label), dtype=torch.float64)
    for i in range(len(label)):
        holders = set(device[(label == label[i]) & (device != device[i])].tolist())
        for j in holders:
            samples = (label == label[i]) & (device == j)
            teaching[i, samples] = 1 / (len(holders) * int(samples.sum()))
    return teaching


def fd_live(devices: Fleet, start: Predicted, *, labels: Tensor, gamma: float, clock: Clock) -> Predicted:
    """Every device taught by the others' label means as they are now: e = f - Y, W = 1 + gamma or 1.

    e' = -eta Theta (W - gamma T) e;  e(t) = exp(-eta t A) e(0),  A = Theta (W - gamma T).
    T Y = Y where taught, so Y is a fixed point; W - gamma T is diagonally dominant, so it is the only one.
    """
    taught = devices.teaching.sum(1)  # (N,) 1 or 0
    pull = torch.diag(1 + gamma * taught) - gamma * devices.teaching
    decay, integral = clock.propagators(devices.theta @ pull)
    error = start.train - labels
    return Predicted(train=labels + decay @ error, unseen=start.unseen - devices.cross @ (pull @ (integral @ error)))


def fd_rounds(
    devices: Fleet, start: Predicted, *, labels: Tensor, gamma: float, rounds: int, period: Clock
) -> Predicted:
    """Teachers frozen within a round; in round 0 the start's own outputs teach. With W as above and e = f - Y,

    one round:  e <- E e + (I - E) W^-1 gamma T e,   E = exp(-eta tau Theta W).
    """
    taught = devices.teaching.sum(1)  # (N,)
    weight = 1 + gamma * taught  # (N,) diagonal of W
    decay, integral = period.propagators(devices.theta * weight)  # Theta W: columns times weights
    goal = gamma * devices.teaching / weight[:, None]  # e* = W^-1 gamma T e
    one = torch.eye(len(weight), dtype=decay.dtype)
    residual = weight[:, None] * (integral @ (one - goal))  # what a round integrates, of e at its start
    step = torch.cat(
        [torch.cat([decay @ (one - goal) + goal, torch.zeros_like(one)], 1), torch.cat([residual, one], 1)]
    )  # (2N, 2N): the error, and all that was integrated
    both = torch.linalg.matrix_power(step, rounds)[:, : len(one)]  # (2N, N)
    error = start.train - labels
    return Predicted(
        train=labels + both[: len(one)] @ error,
        unseen=start.unseen - devices.cross @ (both[len(one) :] @ error),
    )
