"""The linear dynamics that `predict` solves, walked through step by step: slow, obvious, and without its algebra.

Every output, seen or not, moves by  f' = -eta Theta(., training) dLoss/df(training). The loss is written down as
the papers do and differentiated by torch; gradient flow is the matrix exponential of that map, read off by column.

Letters as in `predict`; G (N + M, N) is Theta(all points, training points), states are (N + M, C), training first.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.func import grad

from trainer.ntk.predict import Clock, Descent, Flow

Velocity = Callable[[Tensor], Tensor]
FLOW_PIECES = 64
"""A flow is the product of this many short exponentials: another path to the same digits than one long one."""


def run(velocity: Velocity, state: Tensor, clock: Clock) -> Tensor:
    """The state after the clock's time. `velocity` (without eta) is affine in the state."""
    if isinstance(clock, Descent):
        for _ in range(clock.steps):
            state = state + clock.eta * velocity(state)
        return state
    assert isinstance(clock, Flow)
    flat = state.reshape(-1)
    still = velocity(torch.zeros_like(state)).reshape(-1)
    columns = [velocity(basis.reshape(state.shape)).reshape(-1) - still for basis in torch.eye(len(flat)).to(flat)]
    affine = torch.zeros(len(flat) + 1, len(flat) + 1, dtype=flat.dtype)
    affine[:-1, :-1], affine[:-1, -1] = torch.stack(columns, 1), still
    piece = torch.linalg.matrix_exp(clock.eta * clock.t / FLOW_PIECES * affine)
    lifted = torch.cat([flat, torch.ones(1, dtype=flat.dtype)])
    for _ in range(FLOW_PIECES):
        lifted = piece @ lifted
    return lifted[:-1].reshape(state.shape)


def kd_loss(f: Tensor, labels: Tensor, teacher: Tensor, on_label: float, on_teacher: Tensor | float) -> Tensor:
    """on_label/2 |f - Y|^2 + on_teacher/2 |f - f_T|^2; `on_teacher` may differ from row to row."""
    return (on_label * (f - labels) ** 2 + on_teacher * (f - teacher) ** 2).sum() / 2


def _slope(f: Tensor, labels: Tensor, teacher: Tensor, on_label: float, on_teacher: Tensor | float) -> Tensor:
    slope: Tensor = grad(kd_loss)(f, labels, teacher, on_label, on_teacher)
    return slope


def kd(
    g: Tensor, start: Tensor, *, labels: Tensor, teacher: Tensor, on_label: float, on_teacher: float, clock: Clock
) -> Tensor:
    """(N + M, C) -> (N + M, C)."""
    count = len(labels)

    def velocity(state: Tensor) -> Tensor:
        return -g @ _slope(state[:count], labels, teacher, on_label, on_teacher)

    return run(velocity, start, clock)


def _others(f: Tensor) -> Tensor:
    """(K, N, C): for each worker the mean of the others, by leaving it out."""
    return torch.stack([torch.cat([f[:k], f[k + 1 :]]).mean(0) for k in range(len(f))])


def _workers(g: Tensor, labels: Tensor, lam: float, teachers: Callable[[Tensor], Tensor]) -> Velocity:
    count = labels.shape[0]

    def velocity(state: Tensor) -> Tensor:
        f = state[:, :count]  # (K, N, C)
        taught = zip(f, teachers(f), strict=True)
        return torch.stack([-g @ _slope(own, labels, teacher, 1.0, lam) for own, teacher in taught])

    return velocity


def cd_live(g: Tensor, start: Tensor, labels: Tensor, lam: float, clock: Clock) -> Tensor:
    """(K, N + M, C) -> (K, N + M, C)."""
    return run(_workers(g, labels, lam, _others), start, clock)


def cd_periodic(g: Tensor, start: Tensor, labels: Tensor, lam: float, periods: Sequence[Clock]) -> Tensor:
    """(K, N + M, C) -> (K, N + M, C); teachers are frozen at the beginning of each of `periods`."""
    for clock in periods:
        frozen = _others(start[:, : len(labels)])
        start = run(_workers(g, labels, lam, lambda _f, frozen=frozen: frozen), start, clock)  # type: ignore[misc]
    return start


def _label_means(f: Sequence[Tensor], own: Sequence[Tensor], me: int) -> tuple[Tensor, Tensor]:
    """What the other devices teach device `me`: rows (n_me, C), and whether anybody taught the row (n_me, 1)."""
    rows, taught = [], []
    for label in own[me]:
        held = [f[j][own[j] == label].mean(0) for j in range(len(f)) if j != me and bool((own[j] == label).any())]
        rows.append(torch.stack(held).mean(0) if held else torch.zeros_like(f[me][0]))
        taught.append(float(bool(held)))
    return torch.stack(rows), torch.tensor(taught, dtype=f[0].dtype)[:, None]


def fd(
    gs: Sequence[Tensor],
    starts: Sequence[Tensor],
    own: Sequence[Tensor],
    *,
    targets: Sequence[Tensor],
    gamma: float,
    periods: Sequence[Clock],
    live: bool,
) -> list[Tensor]:
    """A device's G (n_k + M_k, n_k), start (n_k + M_k, C), label numbers (n_k,), targets (n_k, C) -> its end."""
    sizes = [len(start) for start in starts]
    counts = [len(y) for y in own]
    state = torch.cat(list(starts))  # (sum of n_k + M_k, C)

    def training(state: Tensor) -> list[Tensor]:
        return [part[:count] for part, count in zip(torch.split(state, sizes), counts, strict=True)]

    for clock in periods:
        frozen = training(state)

        def velocity(state: Tensor, frozen: list[Tensor] = frozen) -> Tensor:
            f = training(state)
            moves = []
            for k, g in enumerate(gs):
                teacher, taught = _label_means(f if live else frozen, own, k)
                moves.append(-g @ _slope(f[k], targets[k], teacher, 1.0, gamma * taught))
            return torch.cat(moves)

        state = run(velocity, state, clock)
    return list(torch.split(state, sizes))
