"""The infinite-width kernels of a ReLU network of dense layers: NNGP K and NTK Theta, by the arc-cosine recursion.

A layer is sqrt(w / fan_in) W h + sqrt(b) c with all entries of W and c drawn from N(0, 1) (NTK parameterisation).

    K_1     = w_1 <x, x'> / d + b_1                     Theta_1     = K_1
    t       = arccos( K_l(x,x') / sqrt(K_l(x,x) K_l(x',x')) )
    E[relu relu']   = sqrt(K_l(x,x) K_l(x',x')) (sin t + (pi - t) cos t) / (2 pi)
    E[step step']   = (pi - t) / (2 pi)
    K_l+1   = w E[relu relu'] + b                       Theta_l+1   = K_l+1 + w E[step step'] Theta_l

Source: Cho & Saul 2009 (arc-cosine kernels); Jacot et al. 2018 (1806.07572), Lee et al. 2019 (1902.06720).
Letters: n samples, d inputs. All float64.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """A dense layer's variances; a ReLU stands between one layer and the next."""

    weight: float
    bias: float = 0.0

    def __post_init__(self) -> None:
        if self.weight <= 0 or self.bias < 0:
            raise ValueError(
                f"weight variance {self.weight:g} must be positive, bias variance {self.bias:g} not negative"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Kernels:
    """Both (n1, n2)."""

    nngp: Tensor
    ntk: Tensor


TWO_LAYER = (Layer(weight=1.0), Layer(weight=2.0))
"""f = sqrt(2/m) V relu(W x / sqrt d): the network of the experiments."""


def relu_kernels(x1: Tensor, x2: Tensor | None = None, layers: Sequence[Layer] = TWO_LAYER) -> Kernels:
    """x1 (n1, d), x2 (n2, d); x2 = x1 where it is not given. Raises ValueError where there is no layer."""
    if not layers:
        raise ValueError("a network has at least one layer: give Layer(weight=...)")
    x2 = x1 if x2 is None else x2
    first, d = layers[0], x1.shape[1]
    # where x and x' are one and the same point the angle is 0, and arccos(1 - 1e-16) would be 1e-8
    same = (x1[:, None] == x2[None]).all(2)  # (n1, n2)
    k = first.weight * (x1 @ x2.T) / d + first.bias  # (n1, n2)
    k1 = first.weight * (x1**2).sum(1) / d + first.bias  # (n1,)
    k2 = first.weight * (x2**2).sum(1) / d + first.bias  # (n2,)
    theta = k
    for layer in layers[1:]:
        norm = torch.sqrt(torch.outer(k1, k2))  # (n1, n2)
        angle = torch.where(same, 0.0, torch.arccos((k / norm).clamp(-1, 1)))
        both = norm * (torch.sin(angle) + (math.pi - angle) * torch.cos(angle)) / (2 * math.pi)
        steps = (math.pi - angle) / (2 * math.pi)
        k = layer.weight * both + layer.bias
        theta = k + layer.weight * steps * theta
        k1, k2 = (layer.weight * diagonal / 2 + layer.bias for diagonal in (k1, k2))  # E[relu(u)^2] = E[u^2] / 2
    return Kernels(nngp=k, ntk=theta)
