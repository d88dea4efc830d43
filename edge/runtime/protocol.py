"""What every runtime can do: hold a program's state, take one training step, predict.

Letters: B the program's batch, L labels, P parameters, n samples.
"""

from __future__ import annotations

from typing import Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

FloatArray: TypeAlias = NDArray[np.float32]


class Runtime(Protocol):
    """One program, loaded, with its state (parameters, then optimiser state)."""

    @property
    def name(self) -> str:
        """onnx, tflite, numpy or torch, and the library's version: "onnx 1.32.0"."""
        ...

    def parameters(self) -> FloatArray:
        """(P,) a copy of the parameters in the program's layout."""
        ...

    def set_parameters(self, parameters: FloatArray) -> None:
        """Replace the parameters (P,); the optimiser's state stays. Raises ValueError on another shape."""
        ...

    def state(self) -> FloatArray:
        """(S,) a copy of parameters and optimiser state, for the disk. S >= P; the first P are the parameters."""
        ...

    def set_state(self, state: FloatArray) -> None: ...

    def reset(self) -> None:
        """Back to the program's initial state."""
        ...

    def train(self, x: FloatArray, target: FloatArray, lr: float) -> tuple[float, FloatArray]:
        """One step on x (B, ...) towards target (B, L): -> loss before the step, logits (B, L) before the step.

        loss = -(1/B) sum_b sum_l target log p. A row of zeros in `target` adds nothing (a short batch: scale the
        others by B/n, docs/wire.md). "Logits" are softmax outputs.

        A program of squared error takes target (B, 2 L), values t and then their weights w, and answers with what the
        last layer says, v: loss = (1/B) sum_b sum_l w (v - t)^2 / 2, where again a row of zeros adds nothing.
        """
        ...

    def predict(self, x: FloatArray) -> FloatArray:
        """(n, ...) -> (n, L) logits (softmax outputs), any n >= 0: batched and padded as the program needs."""
        ...
