"""Torch's own autograd on the module itself: no export, no graph of ours. Slow, and the witness of the other runtimes.

Letters: B batch, L labels, P parameters.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from edge.runtime.protocol import FloatArray
from edge.wire.manifest import Manifest
from trainer.models import build_model

MOMENTUM = 0.9
"""As trainer.compile.optimise: v <- 0.9 v + g, w <- w - lr v."""
PREDICT = 512


class EagerRuntime:
    """A runtime (edge.runtime.protocol) for sgd and momentum. Raises ValueError on another optimiser."""

    def __init__(self, manifest: Manifest, model: str) -> None:
        if manifest.optimiser not in {"sgd", "momentum"}:
            raise ValueError(f"runtime eager knows sgd and momentum, not {manifest.optimiser}: take onnx or torch")
        torch.set_num_threads(1)
        self._module = build_model(model, input_shape=manifest.input_shape, labels=len(manifest.labels), seed=0)
        self._parameters = list(self._module.parameters())
        self._momentum = MOMENTUM if manifest.optimiser == "momentum" else 0.0
        self._velocity = [torch.zeros_like(one) for one in self._parameters]
        self._count = manifest.parameter_count
        self._initial = self.state()
        self.name = f"eager torch {torch.__version__.partition('+')[0]}"

    def parameters(self) -> FloatArray:
        return _flat(self._parameters)

    def set_parameters(self, parameters: FloatArray) -> None:
        _fill(self._parameters, parameters)

    def state(self) -> FloatArray:
        return _flat([*self._parameters, *(self._velocity if self._momentum else [])])

    def set_state(self, state: FloatArray) -> None:
        _fill(self._parameters, state[: self._count])
        _fill(self._velocity, state[self._count :] if self._momentum else np.zeros(self._count, np.float32))

    def reset(self) -> None:
        self.set_state(self._initial)

    def train(self, x: FloatArray, target: FloatArray, lr: float) -> tuple[float, FloatArray]:
        scores = self._module(torch.tensor(x))
        loss: Tensor = -(torch.tensor(target) * functional.log_softmax(scores, dim=1)).sum() / len(x)
        gradients = torch.autograd.grad(loss, self._parameters)
        with torch.no_grad():
            for parameter, velocity, gradient in zip(self._parameters, self._velocity, gradients, strict=True):
                velocity.mul_(self._momentum).add_(gradient)
                parameter.sub_(lr * velocity)
        return float(loss.detach()), np.asarray(functional.softmax(scores.detach(), dim=1).numpy())

    def predict(self, x: FloatArray) -> FloatArray:
        with torch.inference_mode():
            parts = [functional.softmax(self._module(part), dim=1) for part in torch.split(torch.tensor(x), PREDICT)]
        return np.asarray(torch.cat(parts).numpy())


def _flat(tensors: Sequence[Tensor]) -> FloatArray:
    return np.concatenate([tensor.detach().numpy().ravel() for tensor in tensors]).astype(np.float32)


def _fill(tensors: Sequence[Tensor], flat: FloatArray) -> None:
    at = 0
    with torch.no_grad():
        for tensor in tensors:
            tensor.copy_(torch.tensor(flat[at : at + tensor.numel()]).reshape(tensor.shape))
            at += tensor.numel()
