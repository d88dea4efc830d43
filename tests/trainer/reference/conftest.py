"""A site whose model is one matrix: every step and every prediction can be followed by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from edge.runtime.protocol import FloatArray
from trainer.data import Samples
from trainer.reference.settings import Settings
from trainer.reference.site import Site


class Linear:
    """softmax(x W), x (B, F), W (F, L), by gradient descent: a runtime, and it keeps what it was fed."""

    name = "linear"

    def __init__(self, features: int, labels: int) -> None:
        self.W = np.zeros((features, labels))
        self.fed: list[tuple[FloatArray, FloatArray]] = []

    def parameters(self) -> FloatArray:
        return self.W.ravel().astype(np.float32)

    def set_parameters(self, parameters: FloatArray) -> None:
        self.W = parameters.reshape(self.W.shape).astype(np.float64)

    state, set_state = parameters, set_parameters

    def reset(self) -> None:
        self.W[:] = 0

    def train(self, x: FloatArray, target: FloatArray, lr: float) -> tuple[float, FloatArray]:
        self.fed.append((x, target))
        logits = self.predict(x)
        loss = -(target * np.log(logits)).sum() / len(x)
        error = target.sum(axis=1, keepdims=True) * logits - target
        self.W -= lr * x.T @ error / len(x)
        return float(loss), logits

    def predict(self, x: FloatArray) -> FloatArray:
        powers = np.exp(x @ self.W)
        return np.asarray(powers / powers.sum(axis=1, keepdims=True), np.float32)


class Bench:
    """Makes sites: device 0 of a fleet, B = 2 unless told, features as many as labels (one-hot samples)."""

    def __init__(self) -> None:
        self.runtime = Linear(3, 3)

    def site(
        self,
        method: str,
        y: list[int],
        *,
        number: int = 0,
        round_: int = 0,
        batch: int = 2,
        pool: list[int] | None = None,
        **changes: Any,
    ) -> Site:
        settings = Settings(
            **{
                "method": method,
                "data": "by hand",
                "split": "iid",
                "devices": 2,
                "samples": len(y),
                "seed": 0,
                "programs": (),
                "steps": 1,
                "lr": 1.0,
                "code": "float32",
                **changes,
            }
        )
        eye = np.eye(3, dtype=np.float32)
        return Site(
            settings=settings,
            device=f"d{number}",
            number=number,
            round=round_,
            labels=3,
            batch=batch,
            train=Samples(x=eye[y], y=np.array(y, np.uint8)),
            pool=eye[pool or []],
            scale=1.0,
            runtime=self.runtime,
            state=np.zeros(9, np.float32),
        )


@pytest.fixture
def bench() -> Bench:
    return Bench()
