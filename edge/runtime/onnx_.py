"""The program's ONNX graphs on plain onnxruntime: an inference engine that trains, because the step is the graph.

The state lies in two sets of buffers; a step reads one and writes the other, and no array is made. Through
`run_with_iobinding` and buffers that stay, that is what onnxruntime's own nodes cost and nothing more.

Letters: B batch, L labels.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import numpy as np

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # before the import: from 1.29 on it looks up names on the network

import onnxruntime as ort

from edge.memory import release_code
from edge.runtime.graph import FloatArray, Shape
from edge.runtime.program import Program, ProgramRefused
from edge.runtime.state import TensorRuntime
from edge.wire.manifest import Tensor

ERRORS_ONLY = 3
"""Of onnxruntime's log: its warnings are about graphs it could fold, not about us."""


class OnnxRuntime(TensorRuntime):
    """One thread: a device has other work too. Raises ProgramRefused where onnxruntime cannot take the program."""

    def __init__(self, program: Program) -> None:
        super().__init__(program, f"onnx {ort.__version__}")
        manifest = program.manifest
        state = _shapes(self._layout)
        B, L = manifest.batch, len(manifest.labels)
        batch = [(B, *manifest.input_shape), (B, manifest.target_width), ()]
        self._session = _session(program, "train.onnx", [*state, *batch])
        self._predict: Any = None
        self._sides = _buffers(state), _buffers(state)
        self._batch = _buffers(batch)
        self._results = _buffers([(), (B, L)])
        self._bindings = [
            _bind(self._session, [*self._sides[side], *self._batch], [*self._sides[1 - side], *self._results])
            for side in (0, 1)
        ]
        self._side = 0

    def _step(
        self, tensors: list[FloatArray], x: FloatArray, target: FloatArray, lr: FloatArray
    ) -> tuple[list[FloatArray], float, FloatArray]:
        for buffer, value in zip(self._sides[self._side], tensors, strict=True):
            if buffer is not value:  # set from outside since the last step
                np.copyto(buffer, value)
        for buffer, value in zip(self._batch, (x, target, lr), strict=True):
            np.copyto(buffer, value)
        self._session.run_with_iobinding(self._bindings[self._side])
        self._side = 1 - self._side
        loss, logits = self._results
        return list(self._sides[self._side]), float(loss), logits.copy()

    def _forward(self, parameters: list[FloatArray], x: FloatArray) -> FloatArray:
        if self._predict is None:
            self._predict = _session(self._program, "predict.onnx", [*_shapes(self._parameters), x.shape])
        names = [tensor.name for tensor in self._predict.get_inputs()]
        (logits,) = self._predict.run(None, dict(zip(names, (*parameters, x), strict=True)))
        return np.asarray(logits)


def _session(program: Program, file: str, inputs: Sequence[Shape]) -> Any:
    release_code()  # what the import, or the session before this one, needed (docs/adr/0011)
    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = ERRORS_ONLY
    try:
        session = ort.InferenceSession(program.file(file), options, providers=["CPUExecutionProvider"])
    except ProgramRefused:
        raise
    except Exception as problem:  # onnxruntime's errors share no class of their own
        raise ProgramRefused(
            f"{file}: onnxruntime {ort.__version__} does not load it: compile the program again ({problem})"
        ) from problem
    if [tuple(tensor.shape) for tensor in session.get_inputs()] != list(inputs):
        raise ProgramRefused(f"{file}: its inputs are not those of the manifest: compile the program again")
    return session


def _shapes(layout: Sequence[Tensor]) -> list[Shape]:
    return [tensor.shape for tensor in layout]


def _buffers(shapes: Sequence[Shape]) -> list[FloatArray]:
    return [np.zeros(shape, np.float32) for shape in shapes]


def _bind(session: Any, inputs: Sequence[FloatArray], outputs: Sequence[FloatArray]) -> Any:
    """A binding to the memory of these arrays, which must outlive it."""
    binding = session.io_binding()
    for tensor, array in zip(session.get_inputs(), inputs, strict=True):
        binding.bind_ortvalue_input(tensor.name, ort.OrtValue.ortvalue_from_numpy(array))
    for tensor, array in zip(session.get_outputs(), outputs, strict=True):
        binding.bind_ortvalue_output(tensor.name, ort.OrtValue.ortvalue_from_numpy(array))
    return binding
