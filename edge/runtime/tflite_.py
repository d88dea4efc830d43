"""The program's .tflite graphs on ai-edge-litert, or on tflite-runtime where that is what a board has (armv7).

Between steps the state lies in the interpreter's own input tensors: what a step wrote into its outputs is copied there
once, and numpy arrays are made of it only when somebody asks for them. Measured on 784-128-10, that is one copy of
0.4 MB a step instead of two and an allocation.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import numpy as np

from edge.runtime.graph import FloatArray, Shape
from edge.runtime.program import Program, ProgramRefused
from edge.runtime.state import TensorRuntime
from edge.wire.manifest import Tensor

View: TypeAlias = Callable[[], FloatArray]
"""Makes a view of a tensor's memory; the interpreter does not run while one is alive."""


class TfliteRuntime(TensorRuntime):
    """One thread: a device has other work too. Raises ProgramRefused where the interpreter cannot take the program."""

    def __init__(self, program: Program) -> None:
        library, self._make = _library()
        self._in_interpreter = False  # the step's inputs hold the state
        self._arrays_stale = False  # and `_tensors` an older one
        self._predict: _Model | None = None
        self._predict_parameters: list[FloatArray] = []
        super().__init__(program, f"tflite {library}")
        manifest = program.manifest
        state = _shapes((*manifest.parameters, *manifest.optimiser_state))
        B = manifest.batch
        given = [*state, (B, *manifest.input_shape), (B, manifest.target_width), ()]
        self._train = _Model(program, "train.tflite", self._make, given, [*state, (), (B, len(manifest.labels))])

    def parameters(self) -> FloatArray:
        self._fetch()
        return super().parameters()

    def set_parameters(self, parameters: FloatArray) -> None:
        self._fetch()
        super().set_parameters(parameters)
        self._in_interpreter = False

    def state(self) -> FloatArray:
        self._fetch()
        return super().state()

    def set_state(self, state: FloatArray) -> None:
        super().set_state(state)
        self._in_interpreter = self._arrays_stale = False

    def reset(self) -> None:
        super().reset()
        self._in_interpreter = self._arrays_stale = False

    def predict(self, x: FloatArray) -> FloatArray:
        self._fetch()
        return super().predict(x)

    def _step(
        self, tensors: list[FloatArray], x: FloatArray, target: FloatArray, lr: FloatArray
    ) -> tuple[list[FloatArray], float, FloatArray]:
        count = len(tensors)
        if not self._in_interpreter:
            self._train.feed(tensors, first=0)
        self._train.feed([x, target, lr], first=count)
        self._train.run()
        self._train.feed_back(count)
        self._in_interpreter = self._arrays_stale = True
        return tensors, float(self._train.result(count)), self._train.result(count + 1)

    def _forward(self, parameters: list[FloatArray], x: FloatArray) -> FloatArray:
        if self._predict is None:
            manifest = self._program.manifest
            B = manifest.predict_batch
            inputs = [*_shapes(manifest.parameters), (B, *manifest.input_shape)]
            self._predict = _Model(self._program, "predict.tflite", self._make, inputs, [(B, len(manifest.labels))])
        if not _same(parameters, self._predict_parameters):
            self._predict.feed(parameters, first=0)
            self._predict_parameters = parameters
        self._predict.feed([x], first=len(parameters))
        self._predict.run()
        return self._predict.result(0)

    def _fetch(self) -> None:
        """Bring `_tensors` up to date."""
        if self._arrays_stale:
            self._tensors = [self._train.input(place) for place in range(len(self._tensors))]
            self._arrays_stale = False


class _Model:
    """A loaded .tflite file; tensors are numbered in the order of the graph's inputs or outputs."""

    def __init__(
        self, program: Program, name: str, make: Callable[..., Any], inputs: Sequence[Shape], outputs: Sequence[Shape]
    ) -> None:
        try:
            self._interpreter = make(model_content=program.file(name), num_threads=1)
            self._interpreter.allocate_tensors()
        except (ValueError, RuntimeError) as problem:
            raise ProgramRefused(
                f"{name}: this interpreter cannot run it ({problem}): compile the program again, or use --runtime numpy"
            ) from problem
        read, written = self._interpreter.get_input_details(), self._interpreter.get_output_details()
        if [_signature(detail) for detail in (*read, *written)] != [
            (shape, np.float32) for shape in (*inputs, *outputs)
        ]:
            raise ProgramRefused(
                f"{name}: its inputs and outputs are not those of the manifest: compile the program again"
            )
        self._inputs = [int(detail["index"]) for detail in read]
        self._outputs = [int(detail["index"]) for detail in written]
        self._input_views: list[View] = [self._interpreter.tensor(index) for index in self._inputs]
        self._output_views: list[View] = [self._interpreter.tensor(index) for index in self._outputs]

    def feed(self, values: Sequence[FloatArray], *, first: int) -> None:
        """Into the inputs from number `first` on."""
        for place, value in enumerate(values, first):
            self._interpreter.set_tensor(self._inputs[place], value)

    def feed_back(self, count: int) -> None:
        """The first `count` outputs into the inputs of the same number."""
        for place in range(count):
            self._interpreter.set_tensor(self._inputs[place], self._output_views[place]())

    def run(self) -> None:
        self._interpreter.invoke()

    def input(self, place: int) -> FloatArray:
        """A copy."""
        return np.array(self._input_views[place]())

    def result(self, place: int) -> FloatArray:
        """A copy."""
        return np.array(self._output_views[place]())


def _library() -> tuple[str, Callable[..., Any]]:
    """Which library is installed, with its version, and its interpreter."""
    try:
        from ai_edge_litert.interpreter import Interpreter
    except ImportError:
        from tflite_runtime import __version__
        from tflite_runtime.interpreter import Interpreter as OldInterpreter

        return f"{__version__} (tflite-runtime)", OldInterpreter
    from importlib.metadata import version

    return f"{version('ai-edge-litert')} (ai-edge-litert)", Interpreter


def _shapes(layout: Sequence[Tensor]) -> list[Shape]:
    return [tensor.shape for tensor in layout]


def _signature(detail: dict[str, Any]) -> tuple[Shape, type]:
    return tuple(int(side) for side in detail["shape"]), detail["dtype"]


def _same(some: Sequence[FloatArray], others: Sequence[FloatArray]) -> bool:
    """The same arrays, not only equal ones: no array of a state is ever written to."""
    return len(some) == len(others) and all(a is b for a, b in zip(some, others, strict=True))
