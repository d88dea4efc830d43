"""Actor and critic as one model: their parameters and states joined, the actor's first."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

from edge.runtime.protocol import FloatArray, Runtime


class Pair:
    """A `Runtime` whose steps and predictions are the actor's; the critic's go through `critic`."""

    def __init__(self, actor: Runtime, critic: Runtime) -> None:
        self.actor, self.critic = actor, critic
        self._parameters, self._state = len(actor.parameters()), len(actor.state())

    @property
    def name(self) -> str:
        return self.actor.name

    def parameters(self) -> FloatArray:
        return np.concatenate([self.actor.parameters(), self.critic.parameters()])

    def set_parameters(self, parameters: FloatArray) -> None:
        self.actor.set_parameters(parameters[: self._parameters])
        self.critic.set_parameters(parameters[self._parameters :])

    def state(self) -> FloatArray:
        return np.concatenate([self.actor.state(), self.critic.state()])

    def set_state(self, state: FloatArray) -> None:
        self.actor.set_state(state[: self._state])
        self.critic.set_state(state[self._state :])

    def reset(self) -> None:
        self.actor.reset()
        self.critic.reset()

    def train(self, x: FloatArray, target: FloatArray, lr: float) -> tuple[float, FloatArray]:
        return self.actor.train(x, target, lr)

    def predict(self, x: FloatArray) -> FloatArray:
        return self.actor.predict(x)

    @contextmanager
    def fresh_moments(self) -> Iterator[None]:
        """Within, both optimisers start from nothing; after it they are where they were, the parameters are not."""
        kept = []
        for runtime in (self.actor, self.critic):
            state, P = runtime.state(), len(runtime.parameters())
            kept.append(state[P:].copy())
            state[P:] = 0
            runtime.set_state(state)
        try:
            yield
        finally:
            for runtime, moments in zip((self.actor, self.critic), kept, strict=True):
                runtime.set_state(np.concatenate([runtime.parameters(), moments]))
