"""What a device does between two messages: learn. The client (`edge.client`) knows it by this protocol alone.

`Classifier` trains on a file of samples (alone, FL, FD, FLD, share); `edge.agent.learner.Agent` plays an environment.
Letters: L labels, P parameters.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from edge.memory import release_code
from edge.runtime.choose import choose, installed, load_runtime
from edge.runtime.program import load_program
from edge.runtime.protocol import Runtime
from edge.session import Train
from edge.shard import Pool, Shard, load_pool, load_shard
from edge.train import Result, Task, accuracy, train
from edge.wire.codec import FrameError, Reason
from edge.wire.labels import read_votes
from edge.wire.limits import parameters_limit
from edge.wire.manifest import POOL_FILE
from edge.wire.messages import Opening, Parameters, Plan, UintArray
from edge.wire.options import ShareOptions


class Learner(Protocol):
    @property
    def about(self) -> str:
        """For the log: program, runtime, why this runtime."""
        ...

    @property
    def program(self) -> bytes:
        """Digest that a plan must name."""
        ...

    @property
    def schema(self) -> bytes: ...

    @property
    def labels(self) -> int:
        """L."""
        ...

    @property
    def runtime(self) -> Runtime:
        """The model, its state and its name."""
        ...

    def samples(self) -> UintArray:
        """(L,) local training samples of each label, for the birth."""
        ...

    def opening_limit(self) -> int:
        """Bytes of the longest frame that opens a round of ours."""
        ...

    def check(self, message: Plan | Opening) -> None:
        """What only who knows program and data can see. Raises FrameError."""
        ...

    def train(self, action: Train, device: str, go_on: Callable[[], bool]) -> Result | None:
        """The plan's round. None if `go_on`, asked before each step, said no. Raises `DivergedError`."""
        ...

    def score(self) -> float:
        """Of the model, 0..1: what a `Report` calls accuracy."""
        ...


class Classifier:
    """A program, and the samples it is trained on."""

    def __init__(self, program: Path, data: Path, runtime: str | None) -> None:
        """Raises ValueError that says what to change."""
        loaded = load_program(program)
        self._manifest = loaded.manifest
        self._program = self._manifest.digest  # asked for at every plan; a digest is made anew each time
        self._shard: Shard = load_shard(data, self._manifest)
        shipped = loaded.files.get(POOL_FILE)
        self._pool: Pool | None = None if shipped is None else load_pool(shipped, self._manifest)
        why = choose(loaded, runtime, installed()).reason
        release_code()  # before and after: the runtime's own import and loading are the peak
        self._runtime = load_runtime(loaded, runtime)
        release_code()
        self.about = f"runtime {self._runtime.name} ({why}), program {self._manifest.name}"

    @property
    def program(self) -> bytes:
        return self._program

    @property
    def schema(self) -> bytes:
        return self._manifest.schema

    @property
    def labels(self) -> int:
        return len(self._manifest.labels)

    @property
    def runtime(self) -> Runtime:
        return self._runtime

    def samples(self) -> UintArray:
        return self._shard.counts(self.labels)

    def opening_limit(self) -> int:
        return parameters_limit(self._manifest.parameter_count)

    def check(self, message: Plan | Opening) -> None:
        if isinstance(message, Plan):
            self._check_plan(message)
        elif not isinstance(message, Parameters):
            raise FrameError(Reason.UNEXPECTED, f"a {type(message).__name__} is for agents")
        elif len(message.parameters) != self._manifest.parameter_count:
            raise FrameError(
                Reason.SHAPE, f"{len(message.parameters)} parameters, not {self._manifest.parameter_count}"
            )

    def _check_plan(self, plan: Plan) -> None:
        if plan.program != self.program:
            return
        labels = len(plan.contributors)
        if labels not in {0, self.labels}:
            raise FrameError(Reason.SHAPE, f"{labels} labels, not {self.labels}")
        options = plan.read_options()
        if isinstance(options, ShareOptions) and plan.labels:
            try:
                read_votes(plan.labels, options, self.labels)
            except ValueError as problem:
                raise FrameError(Reason.RANGE, f"labels of shared inputs: {problem}") from problem

    def train(self, action: Train, device: str, go_on: Callable[[], bool]) -> Result | None:
        task = Task(
            plan=action.plan,
            teacher=action.teacher,
            device=device,
            seeds=action.seeds,
            shared=action.shared,
            pool=self._pool,
        )
        return train(self._runtime, self._shard, self._manifest, task, go_on=go_on)

    def score(self) -> float:
        return accuracy(self._runtime, self._shard, self._manifest.predict_batch)
