"""What all runtimes share: the state as one flat vector and as tensors, the checks of a batch, batched prediction.

Letters: B batch, L labels, P parameters, S parameters and optimiser state, n samples.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import numpy as np

from edge.runtime.graph import FloatArray
from edge.runtime.program import Program
from edge.wire.manifest import Tensor


def split(flat: FloatArray, layout: Sequence[Tensor]) -> list[FloatArray]:
    """(S,) -> the layout's tensors, as views where the memory allows it."""
    sizes = [int(np.prod(tensor.shape, dtype=np.int64)) for tensor in layout]
    if flat.shape != (sum(sizes),):
        raise ValueError(f"a vector of {flat.shape}, but this program's has {sum(sizes)} numbers")
    ends = np.cumsum(sizes)
    parts = [flat[end - size : end] for end, size in zip(ends, sizes, strict=True)]
    return [part.reshape(tensor.shape) for part, tensor in zip(parts, layout, strict=True)]


def join(tensors: Sequence[FloatArray]) -> FloatArray:
    """The tensors -> a new flat vector."""
    return np.concatenate([np.ravel(tensor) for tensor in tensors]).astype(np.float32, copy=False)


class TensorRuntime(ABC):
    """A runtime whose state is a list of arrays; the two abstract steps are all that differs between runtimes."""

    def __init__(self, program: Program, name: str) -> None:
        self._name = name
        self._program = program
        manifest = program.manifest
        self._parameters = manifest.parameters
        self._layout = (*manifest.parameters, *manifest.optimiser_state)
        self._tensors: list[FloatArray] = []
        self.reset()

    @abstractmethod
    def _step(
        self, tensors: list[FloatArray], x: FloatArray, target: FloatArray, lr: FloatArray
    ) -> tuple[list[FloatArray], float, FloatArray]:
        """-> new state, loss, logits (B, L). The arrays given may not be written to; `lr` is an array of shape ()."""

    @abstractmethod
    def _forward(self, parameters: list[FloatArray], x: FloatArray) -> FloatArray:
        """From x (predict batch, ...) to logits (predict batch, L)."""

    @property
    def name(self) -> str:
        return self._name

    def parameters(self) -> FloatArray:
        return join(self._tensors[: len(self._parameters)])

    def set_parameters(self, parameters: FloatArray) -> None:
        new = split(np.array(parameters, np.float32), self._parameters)
        self._tensors[: len(new)] = new

    def state(self) -> FloatArray:
        return join(self._tensors)

    def set_state(self, state: FloatArray) -> None:
        self._tensors = split(np.array(state, np.float32), self._layout)

    def reset(self) -> None:
        self._tensors = split(self._program.initial, self._layout)

    def train(self, x: FloatArray, target: FloatArray, lr: float) -> tuple[float, FloatArray]:
        manifest = self._program.manifest
        _require_shape("x", x, (manifest.batch, *manifest.input_shape))
        _require_shape("target", target, (manifest.batch, manifest.target_width))
        self._tensors, loss, logits = self._step(self._tensors, _float32(x), _float32(target), np.array(lr, np.float32))
        return float(loss), logits

    def predict(self, x: FloatArray) -> FloatArray:
        manifest = self._program.manifest
        _require_shape("x", x, (len(x), *manifest.input_shape))
        B, parameters = manifest.predict_batch, self._tensors[: len(self._parameters)]
        out = np.empty((len(x), len(manifest.labels)), np.float32)
        for start in range(0, len(x), B):
            part = _float32(x[start : start + B])
            out[start : start + B] = self._forward(parameters, _padded(part, B))[: len(part)]
        return out


def _require_shape(name: str, value: FloatArray, shape: tuple[int, ...]) -> None:
    if value.shape != shape:
        raise ValueError(f"{name} has the shape {value.shape}, this program takes {shape}")


def _float32(value: FloatArray) -> FloatArray:
    return np.ascontiguousarray(value, np.float32)


def _padded(x: FloatArray, batch: int) -> FloatArray:
    """(n, ...) -> (batch, ...), zeros behind."""
    if len(x) == batch:
        return x
    full = np.zeros((batch, *x.shape[1:]), np.float32)
    full[: len(x)] = x
    return full
