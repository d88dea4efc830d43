"""Trained networks beside the prediction from their kernel at initialisation: KD, CD and FD.

The error of a prediction is relative to how far the outputs moved: |f - f_predicted| / |f_predicted - f(0)|.

Letters: n samples, M unseen points, L classes, K workers or devices, T recorded steps, N = n L.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from trainer.ntk import predict
from trainer.ntk.kernels import Parameters, contraction, matrix
from trainer.ntk.networks import Points, Trajectory, descend, initial, log_steps, two_layer
from trainer.ntk.predict import Descent, Modes, Predicted

TEACHER_NOISE = 0.3
"""Of KD's teacher: the label plus this much N(0, 1) on each output."""
OF_THE_LIMIT = 0.5
"""The step size, of the largest at which gradient descent on the fastest mode does not diverge."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """One training beside its prediction."""

    method: str
    width: int
    seed: int
    weight: float
    """lambda, or FD's gamma."""
    workers: int
    steps: int
    eta: float
    train_error: float
    unseen_error: float
    seconds: float
    """Of the training alone."""
    measured: Trajectory = field(repr=False)
    predicted: Trajectory = field(repr=False)

    def plain(self) -> dict[str, float | int | str]:
        """What run.json keeps."""
        names = ("method", "width", "seed", "weight", "workers", "steps", "eta")
        figures = ("train_error", "unseen_error", "seconds")
        return {name: getattr(self, name) for name in (*names, *figures)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Linearised:
    """A network at its start, and its empirical kernel over all points."""

    network: Parameters
    theta: Tensor
    """(n L, n L)"""
    cross: Tensor
    """(M L, n L)"""
    start: Predicted
    """(n L, 1) and (M L, 1)"""
    modes: Modes


def linearise(points: Points, width: int, seed: int) -> Linearised:
    network = initial(width, points.train.shape[1], points.classes, seed)
    whole = contraction(two_layer, network, points.all, points.train)  # (n + M, n, L, L)
    count = len(points.train)
    theta = matrix(whole[:count])
    theta = (theta + theta.T) / 2  # rounding
    start = Predicted(train=_flat(two_layer(network, points.train)), unseen=_flat(two_layer(network, points.unseen)))
    modes = predict.modes(theta)
    return Linearised(network=network, theta=theta, cross=matrix(whole[count:]), start=start, modes=modes)


def _flat(f: Tensor) -> Tensor:
    """(n, L) -> (n L, 1)"""
    return f.reshape(-1, 1)


def _trajectory(steps: Sequence[int], predictions: Sequence[Predicted], workers: int, outputs: int) -> Trajectory:
    """Of (N, 1) or (K, N, 1) predictions."""
    shape = (workers, -1, outputs)
    return Trajectory(
        steps=tuple(steps),
        train=torch.stack([p.train.reshape(shape) for p in predictions]),
        unseen=torch.stack([p.unseen.reshape(shape) for p in predictions]),
    )


def relative_error(measured: Tensor, predicted: Tensor) -> float:
    """Of the last of (T, ...); the first is the start."""
    return float((measured[-1] - predicted[-1]).norm() / (predicted[-1] - predicted[0]).norm())


def noisy_teacher(points: Points, seed: int) -> Tensor:
    """(n, L)"""
    random = torch.Generator().manual_seed(1000 + seed)
    noise = torch.randn(points.labels.shape, generator=random, dtype=torch.float64)
    return points.labels + TEACHER_NOISE * noise


def wrong_teacher(points: Points) -> Tensor:
    """(n, L) one-hot, the next class."""
    return points.labels.roll(1, 1)


# ---------------------------------------------------------------- KD


def run_kd(
    points: Points, net: Linearised, teacher: Tensor, *, lam: float, width: int, seed: int, steps: int
) -> Outcome:
    labels, rate = points.labels, float((1 + lam) * net.modes.values[-1])
    eta, record = OF_THE_LIMIT * 2 / rate, log_steps(steps)
    begun = time.monotonic()
    measured = descend(
        [net.network],
        [points.train],
        points.unseen,
        lambda _, f: [(f[0] - labels) + lam * (f[0] - teacher)],
        eta=eta,
        record=record,
    )
    seconds = time.monotonic() - begun
    blend = predict.regularised(lam)
    predicted = [
        predict.kd(
            net.modes,
            net.cross,
            net.start,
            labels=_flat(labels),
            teacher=_flat(teacher),
            blend=blend,
            clock=Descent(eta=eta, steps=step),
        )
        for step in record
    ]
    return _outcome("kd", measured, _trajectory(record, predicted, 1, points.classes), (width, seed, lam, eta), seconds)


def _outcome(
    method: str,
    measured: Trajectory,
    predicted: Trajectory,
    setting: tuple[int, int, float, float],
    seconds: float,
) -> Outcome:
    width, seed, weight, eta = setting
    return Outcome(
        method=method,
        width=width,
        seed=seed,
        weight=weight,
        workers=measured.train.shape[1],
        steps=measured.steps[-1],
        eta=eta,
        train_error=relative_error(measured.train, predicted.train),
        unseen_error=relative_error(measured.unseen, predicted.unseen),
        seconds=seconds,
        measured=measured,
        predicted=predicted,
    )


# ---------------------------------------------------------------- CD


def run_cd(
    points: Points, nets: Sequence[Linearised], *, lam: float, width: int, seed: int, steps: int, period: int = 0
) -> Outcome:
    """K workers with starts of their own; teachers live, or exchanged every `period` steps. Kernel: the mean."""
    workers, labels = len(nets), points.labels
    modes = predict.modes(torch.stack([net.theta for net in nets]).mean(0))
    cross = torch.stack([net.cross for net in nets]).mean(0)
    rate = float((1 + lam * workers / (workers - 1)) * modes.values[-1])
    eta, record = OF_THE_LIMIT * 2 / rate, log_steps(steps)
    teachers: list[Tensor] = []

    def residuals(step: int, f: Sequence[Tensor]) -> list[Tensor]:
        if not period or step % period == 0:
            total = torch.stack(list(f)).sum(0)
            teachers[:] = [(total - own) / (workers - 1) for own in f]
        return [(own - labels) + lam * (own - teacher) for own, teacher in zip(f, teachers, strict=True)]

    begun = time.monotonic()
    measured = descend(
        [net.network for net in nets], [points.train] * workers, points.unseen, residuals, eta=eta, record=record
    )
    seconds = time.monotonic() - begun
    start = Predicted(
        train=torch.stack([net.start.train for net in nets]), unseen=torch.stack([net.start.unseen for net in nets])
    )
    predicted = []
    for step in record:
        if period:
            whole, rest = divmod(step, period)
            at = predict.cd_periodic(
                modes,
                cross,
                start,
                labels=_flat(labels),
                lam=lam,
                periods=whole,
                period=Descent(eta=eta, steps=period),
                rest=Descent(eta=eta, steps=rest),
            )
        else:
            clock = Descent(eta=eta, steps=step)
            at = predict.cd_live(modes, cross, start, labels=_flat(labels), lam=lam, clock=clock)
        predicted.append(at)
    method = "cd periodic" if period else "cd"
    return _outcome(
        method, measured, _trajectory(record, predicted, workers, points.classes), (width, seed, lam, eta), seconds
    )


# ---------------------------------------------------------------- FD


def device_shares(points: Points, devices: int) -> list[Tensor]:
    """Which samples each device holds, as many each. Skewed: classes go round by pairs, so no device holds them all."""
    homes: list[list[int]] = [[] for _ in range(devices)]
    for label in range(points.classes):
        holders = [label % devices, (label + 1) % devices]
        for turn, sample in enumerate(torch.nonzero(points.train_label == label)[:, 0].tolist()):
            homes[holders[0 if turn % 4 else 1]].append(sample)  # three quarters here, one quarter next door
    least = min(len(home) for home in homes)
    return [torch.tensor(sorted(home[:least])) for home in homes]


def run_fd(
    points: Points, net: Linearised, *, gamma: float, devices: int, width: int, seed: int, rounds: int, period: int
) -> Outcome:
    """K devices from one start on their own data; in each round taught by the others' label means of the last."""
    shares = device_shares(points, devices)
    own, targets = [points.train_label[share] for share in shares], [points.labels[share] for share in shares]
    count, outputs = len(shares[0]), points.classes
    indices = [(share[:, None] * outputs + torch.arange(outputs)).reshape(-1) for share in shares]  # (n_k L,)
    fleet = predict.fleet(
        [net.theta[index][:, index] for index in indices], [net.cross[:, index] for index in indices], own, outputs
    )
    largest = max(float(torch.linalg.eigvalsh(net.theta[index][:, index])[-1]) for index in indices)
    eta = OF_THE_LIMIT * 2 / ((1 + gamma) * largest)
    teaching = predict.label_teachers(own)  # (K n_k, K n_k)
    taught = teaching.sum(1, keepdim=True)
    frozen: list[Tensor] = []

    def residuals(step: int, f: Sequence[Tensor]) -> list[Tensor]:
        together = torch.cat(list(f))  # (K n_k, L)
        if step % period == 0:
            frozen[:] = [teaching @ together]
        residual = (together - torch.cat(targets)) + gamma * taught * (together - frozen[0])
        return list(torch.split(residual, count))

    record = tuple(round_ * period for round_ in range(rounds + 1))
    begun = time.monotonic()
    measured = descend(
        [net.network] * devices,
        [points.train[share] for share in shares],
        points.unseen,
        residuals,
        eta=eta,
        record=record,
    )
    seconds = time.monotonic() - begun
    start = Predicted(
        train=torch.cat([net.start.train[index] for index in indices]), unseen=net.start.unseen.repeat(devices, 1)
    )
    labels, clock = _flat(torch.cat(targets)), Descent(eta=eta, steps=period)
    predicted = [
        predict.fd_rounds(fleet, start, labels=labels, gamma=gamma, rounds=round_, period=clock)
        for round_ in range(rounds + 1)
    ]
    return _outcome(
        "fd", measured, _trajectory(record, predicted, devices, outputs), (width, seed, gamma, eta), seconds
    )


# ---------------------------------------------------------------- what is read off them


def mode_decay(points: Points, net: Linearised, outcome: Outcome, teacher: Tensor, chosen: Sequence[int]) -> Tensor:
    """(2, T, len(chosen)): |q_i . (f(t) - f*)| / |q_i . (f(0) - f*)| of the network and as predicted."""
    target = predict.regularised(outcome.weight).target(points.labels, teacher).reshape(-1)
    vectors = net.modes.vectors[:, list(chosen)]  # (N, modes)
    both = torch.stack([outcome.measured.train, outcome.predicted.train]).flatten(2)  # (2, T, N)
    parts = ((both - target) @ vectors).abs()
    return parts / parts[:, :1]


def blend_reached(points: Points, f: Tensor, teacher: Tensor) -> float:
    """Where f (n, L) stands on the way from the labels (0) to the teacher (1): the projection."""
    way = teacher - points.labels
    return float(((f - points.labels) * way).sum() / (way * way).sum())


def follows_teacher(f: Tensor, teacher: Tensor) -> float:
    """The share of samples whose largest output is the teacher's."""
    return float((f.argmax(1) == teacher.argmax(1)).double().mean())


def geometric_mean(values: Sequence[float]) -> float:
    return float(torch.tensor(values, dtype=torch.float64).log().mean().exp())


def slope(widths: Sequence[int], errors: Sequence[float]) -> float:
    """The exponent s of error ~ width^s, by least squares in logarithms."""
    x, y = (torch.tensor(values, dtype=torch.float64).log() for values in (widths, errors))
    x = x - x.mean()
    return float((x * (y - y.mean())).sum() / (x * x).sum())


def by_width(outcomes: Sequence[Outcome], which: str) -> Iterator[tuple[int, float]]:
    """The mean error over everything else, each width once, ascending."""
    for width in sorted({outcome.width for outcome in outcomes}):
        errors = [getattr(outcome, which) for outcome in outcomes if outcome.width == width]
        yield width, sum(errors) / len(errors)
