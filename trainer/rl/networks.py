"""N small dense networks of one shape, trained side by side in numpy: tanh between layers, none after the last.

The flat vector of a network is that of the compiled program (`trainer.models`: weight (out, in), then bias, layer by
layer), and a step is the program's step: gradient clipped to a norm, then Adam. The tests hold both against each other.
Letters: N networks, M of them at a time, B rows of a batch, P parameters.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Floats: TypeAlias = NDArray[np.float32]
Indices: TypeAlias = NDArray[np.intp]

BETA1, BETA2, EPSILON = np.float32(0.9), np.float32(0.999), np.float32(1e-8)
ONE = np.float32(1)


class Networks:
    """Parameters (N, P) and Adam's moments. `which` (M,) names the networks meant; M may be 0."""

    def __init__(self, sides: Sequence[int], scale: Sequence[float], parameters: Floats) -> None:
        """`sides`: inputs, hidden layers, outputs; `scale` multiplies the inputs; `parameters` (N, P)."""
        self.sides = tuple(sides)
        self._scale = np.asarray(scale, np.float32)
        count = len(parameters)
        self.parameters = np.array(parameters, np.float32)  # (N, P)
        self.mean, self.square = np.zeros_like(self.parameters), np.zeros_like(self.parameters)
        self.corrections = np.zeros((2, count, 1), np.float32)
        self._layers = _layout(self.sides)
        assert self.parameters.shape == (count, parameter_count(self.sides))

    def moments(self) -> tuple[Floats, Floats, Floats]:
        """Adam's: a copy."""
        return self.mean.copy(), self.square.copy(), self.corrections.copy()

    def set_moments(self, moments: tuple[Floats, Floats, Floats]) -> None:
        self.mean, self.square, self.corrections = moments

    def forget(self) -> None:
        """Adam's moments to zero."""
        for moment in (self.mean, self.square, self.corrections):
            moment.fill(0)

    def scores(self, which: Indices, x: Floats) -> Floats:
        """Inputs (M, B, in) -> what the last layer says (M, B, out)."""
        return self._forward(self.parameters[which], x)[-1]

    def step(self, which: Indices, x: Floats, gradient: Floats, lr: float, clip: float) -> None:
        """One step down the loss whose gradient on the scores is (M, B, out); each network's norm is clipped alone."""
        own = self.parameters[which]
        g = self._backward(own, self._forward(own, x), gradient)  # (M, P)
        norm = np.sqrt((g * g).sum(axis=1, keepdims=True))
        g *= np.float32(clip) / np.maximum(norm, np.float32(clip))
        c1, c2 = self.corrections[:, which]
        c1 = BETA1 * c1 + (ONE - BETA1)
        c2 = BETA2 * c2 + (ONE - BETA2)
        mean = BETA1 * self.mean[which] + (ONE - BETA1) * g
        square = BETA2 * self.square[which] + (ONE - BETA2) * g * g
        own -= np.float32(lr) * (mean / c1) / (np.sqrt(square / c2) + EPSILON)
        self.parameters[which], self.mean[which], self.square[which] = own, mean, square
        self.corrections[0, which], self.corrections[1, which] = c1, c2

    def _forward(self, own: Floats, x: Floats) -> list[Floats]:
        """-> the input of each layer, and the scores."""
        values = [x * self._scale]
        for index, (weight, bias, shape) in enumerate(self._layers):
            w = own[:, weight].reshape(-1, *shape)  # (M, out, in)
            y = np.matmul(values[-1], w.transpose(0, 2, 1)) + own[:, None, bias]  # (M, B, in) (M, in, out)
            values.append(y if index == len(self._layers) - 1 else np.tanh(y))
        return values

    def _backward(self, own: Floats, values: list[Floats], g: Floats) -> Floats:
        """Gradient on the scores (M, B, out) -> on the parameters (M, P)."""
        found = np.empty_like(own)
        for index in range(len(self._layers) - 1, -1, -1):
            weight, bias, shape = self._layers[index]
            x = values[index]
            found[:, weight] = np.matmul(g.transpose(0, 2, 1), x).reshape(len(own), -1)  # (M, out, B) (M, B, in)
            found[:, bias] = g.sum(axis=1)
            if index:
                g = np.matmul(g, own[:, weight].reshape(-1, *shape)) * (ONE - x * x)
        return found


def parameter_count(sides: Sequence[int]) -> int:
    """P."""
    return sum((inputs + 1) * outputs for inputs, outputs in pairwise(sides))


def initial(sides: Sequence[int], rng: np.random.Generator, last: float) -> Floats:
    """(P,) torch's default of a linear layer, uniform within 1/sqrt(inputs); the last layer's times `last`."""
    parts = []
    for index, (inputs, outputs) in enumerate(pairwise(sides)):
        width = (last if index == len(sides) - 2 else 1.0) / np.sqrt(inputs)
        parts.append(rng.uniform(-width, width, (inputs + 1) * outputs))
    return np.concatenate(parts).astype(np.float32)


def softmax(scores: Floats) -> Floats:
    """Over the last axis."""
    e: Floats = np.exp(scores - scores.max(axis=-1, keepdims=True))
    e /= e.sum(axis=-1, keepdims=True)
    return e


def _layout(sides: Sequence[int]) -> list[tuple[slice, slice, tuple[int, int]]]:
    """Of each layer: where its weights and its bias lie in the flat vector, and the weights' shape (out, in)."""
    found, at = [], 0
    for inputs, outputs in pairwise(sides):
        end = at + inputs * outputs
        found.append((slice(at, end), slice(end, end + outputs), (outputs, inputs)))
        at = end + outputs
    return found
