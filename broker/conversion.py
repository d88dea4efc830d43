"""What the devices said and gave becomes a model (FLD): K_s training steps on the seeds, one at a time.

The aggregator's shell takes a step between messages (docs/adr/0022), so one thread is enough and no device waits for
an acknowledgement. Letters: B the program's batch, P parameters, n samples, L labels.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from broker.methods.fld import training_set
from broker.round import Convert
from edge.runtime.choose import load_runtime
from edge.runtime.program import load_program
from edge.wire.messages import FloatArray
from edge.wire.streams import FLEET, Purpose, batches, stream


class Converter:
    """The run's program, on the best runtime installed here."""

    def __init__(self, folder: Path) -> None:
        """Raises ValueError that says what is wrong with the program, or which runtime is missing."""
        program = load_program(folder)
        self._manifest = program.manifest
        self._runtime = load_runtime(program)
        self._steps: Iterator[None] = iter(())

    @property
    def digest(self) -> bytes:
        """Of the program."""
        return self._manifest.digest

    def begin(self, order: Convert) -> None:
        """What was under way is dropped."""
        self._steps = self._convert(order)

    def advance(self) -> FloatArray | None:
        """One step, or (P,) the parameters when all are done."""
        for _ in self._steps:
            return None
        return self._runtime.parameters()

    def _convert(self, order: Convert) -> Iterator[None]:
        """From the model of the round before, the optimiser's state anew: the same after a restart."""
        runtime, B, options = self._runtime, self._manifest.batch, order.options
        runtime.reset()
        if order.parameters is not None:
            runtime.set_parameters(order.parameters)
        data = training_set(order.seeds, order.method, options.lam, len(self._manifest.labels))
        n = len(data.one)
        if n == 0:
            return
        target = data.targets(order.teacher, options.beta, normalise=order.normalise)  # (n, L)
        rng = stream(order.seed, FLEET, order.round, Purpose.CONVERSION)
        for indices in batches(rng, n, B, options.steps):
            b = len(indices)
            x = np.zeros((B, *self._manifest.input_shape), np.float32)
            x[:b] = data.x(indices).reshape(b, *self._manifest.input_shape)
            t = np.zeros((B, target.shape[1]), np.float32)
            t[:b] = target[indices] * np.float32(B / b)
            runtime.train(x, t, options.lr)
            yield
