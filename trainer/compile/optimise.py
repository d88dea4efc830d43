"""The optimiser's update as nodes of the flat graph: torch.optim's equations, its state as extra tensors.

    sgd       p' = p - lr g
    momentum  v' = 0.9 v + g                                 p' = p - lr v'
    adam      m' = b1 m + (1 - b1) g      s' = b2 s + (1 - b2) g^2      c1' = b1 c1 + (1 - b1)   c2' = b2 c2 + (1 - b2)
              p' = p - lr (m' / c1') / (sqrt(s' / c2') + eps)

Adam's step count t travels as the two bias corrections c = 1 - b^t, both 0 at the start: the recurrence keeps them
exact to a rounding, where 1 - exp(t log b) in float32 would lose five digits at t = 1.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, TypeAlias

import numpy as np

from edge.wire.manifest import Tensor
from trainer.compile.builder import Builder

Optimiser: TypeAlias = Literal["sgd", "momentum", "adam"]

MOMENTUM = 0.9
"""The usual choice: with lr .03 it does on MNIST what plain SGD does with lr .1."""
BETA1, BETA2, EPSILON = 0.9, 0.999, 1e-8
"""torch.optim.Adam's defaults."""


def optimiser_state(optimiser: Optimiser, parameters: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """The extra tensors, all zeros in the initial state."""
    if optimiser == "sgd":
        return ()
    if optimiser == "momentum":
        return tuple(Tensor(name=f"velocity/{p.name}", shape=p.shape) for p in parameters)
    means = [Tensor(name=f"mean/{p.name}", shape=p.shape) for p in parameters]
    squares = [Tensor(name=f"square/{p.name}", shape=p.shape) for p in parameters]
    return (*means, *squares, Tensor(name="correction/mean", shape=()), Tensor(name="correction/square", shape=()))


def append_update(
    b: Builder,
    optimiser: Optimiser,
    *,
    parameters: Sequence[str],
    gradients: Sequence[str],
    state: Sequence[str],
    lr: str,
    clip: float = 0.0,
) -> list[str]:
    """-> names of the new state: parameters, then the optimiser's tensors, in the manifest's order.

    SGD takes gradients that are already multiplied by -lr: the scale went in at the loss, (B, L) numbers instead of P.
    With `clip` > 0 the gradients are scaled so that the norm of all of them together is at most that (not with SGD).
    """
    if clip:
        gradients = _clipped(b, gradients, clip)
    if optimiser == "sgd":
        return [b.op("add", g, p) for p, g in zip(parameters, gradients, strict=True)]
    if optimiser == "momentum":
        return _momentum(b, parameters, gradients, state, lr)
    return _adam(b, parameters, gradients, state, lr)


def _clipped(b: Builder, gradients: Sequence[str], clip: float) -> list[str]:
    """Each g times clip / max(|g|, clip), |g| the norm of all gradients: torch's clip_grad_norm_ without its 1e-6."""
    squares = [b.op("reshape", b.op("mul", g, g), shape=[1, math.prod(b.shape(g))]) for g in gradients]
    total = b.op("sum", b.op("concat", *squares, axis=1), axes=[1], keepdims=True)  # (1, P) -> (1, 1)
    limit = b.constant(np.full((1, 1), clip, np.float32))
    scale = b.op("reshape", b.op("div", limit, b.op("maximum", b.op("sqrt", total), limit)), shape=[])
    return [b.op("mul", g, scale) for g in gradients]


def _momentum(
    b: Builder, parameters: Sequence[str], gradients: Sequence[str], state: Sequence[str], lr: str
) -> list[str]:
    decay = b.scalar(MOMENTUM)
    velocity = [b.op("add", g, b.op("mul", v, decay)) for v, g in zip(state, gradients, strict=True)]
    new = [b.op("sub", p, b.op("mul", v, lr)) for p, v in zip(parameters, velocity, strict=True)]
    return [*new, *velocity]


def _adam(b: Builder, parameters: Sequence[str], gradients: Sequence[str], state: Sequence[str], lr: str) -> list[str]:
    n = len(parameters)
    means, squares, (c1, c2) = state[:n], state[n : 2 * n], state[2 * n :]
    c1, c2 = _decay(b, c1, b.scalar(1.0), BETA1), _decay(b, c2, b.scalar(1.0), BETA2)
    root = b.op("sqrt", c2)
    rate, floor = (
        b.op("div", b.op("mul", lr, root), c1),
        b.op("mul", root, b.scalar(EPSILON)),
    )  # lr sqrt(c2)/c1, eps sqrt(c2)
    means = [_decay(b, m, g, BETA1) for m, g in zip(means, gradients, strict=True)]
    squares = [_decay(b, s, b.op("mul", g, g), BETA2) for s, g in zip(squares, gradients, strict=True)]
    new = [
        b.op("sub", p, b.op("div", b.op("mul", m, rate), b.op("add", b.op("sqrt", s), floor)))
        for p, m, s in zip(parameters, means, squares, strict=True)
    ]
    return [*new, *means, *squares, c1, c2]


def _decay(b: Builder, old: str, new: str, beta: float) -> str:
    """Mean of the past: beta old + (1 - beta) new."""
    return b.op("add", b.op("mul", old, b.scalar(beta)), b.op("mul", new, b.scalar(1 - beta)))
