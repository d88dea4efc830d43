"""A .tflite file being built: tensors, constants and built-in operators of one subgraph -> bytes.

The schema comes with ai-edge-litert (`schema_py_generated`, the flatbuffers object API); docs/adr/0005 says why we
write the file ourselves. Every operator is written with version 1 unless the caller names another one, so that the
oldest runtime we serve (tflite-runtime 2.14) takes it. Same calls, same bytes.
"""

from __future__ import annotations

import math
from typing import Any, TypeAlias

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema
from numpy.typing import NDArray

Shape: TypeAlias = tuple[int, ...]

FORMAT = 3
"""Version of the TFLite schema; the only one in use."""
IDENTIFIER = b"TFL3"
ALIGNMENT = 16
"""Bytes; `force_align: 16` of Buffer.data in schema.fbs. Python's object API does not keep it by itself, and ARM's
vector loads trap where it is not kept."""
LARGEST_OLD_CODE = 127
"""`deprecated_builtin_code` is one byte: codes above it get this placeholder (schema_conversion_utils.cc)."""

TYPES = {"float32": schema.TensorType.FLOAT32, "int32": schema.TensorType.INT32, "bool": schema.TensorType.BOOL}


class _AlignedBuffer(schema.BufferT):  # type: ignore[misc] # the schema module is untyped
    def Pack(self, builder: Any) -> int:  # noqa: N802 # the object API's name
        size = 0 if self.data is None else self.data.size
        builder.Prep(ALIGNMENT, size)
        return int(super().Pack(builder))


class ModelBuilder:
    """Tensors are numbered from 0 in the order they are made."""

    def __init__(self, description: str) -> None:
        self._model = schema.ModelT()
        self._model.version = FORMAT
        self._model.description = description.encode()
        self._model.buffers = [_AlignedBuffer()]  # buffer 0 is empty by convention: "not a constant"
        self._model.operatorCodes = []
        self._graph = schema.SubGraphT()
        self._graph.name = b"main"
        self._graph.tensors = []
        self._graph.operators = []
        self._model.subgraphs = [self._graph]
        self._codes: dict[tuple[str, int], int] = {}
        self._constants: dict[tuple[str, Shape, bytes], int] = {}
        self._shapes: list[Shape] = []

    def shape(self, tensor: int) -> Shape:
        return self._shapes[tensor]

    def tensor(self, shape: Shape, name: str = "", dtype: str = "float32") -> int:
        """An input or an operator's result."""
        number = len(self._shapes)
        entry = schema.TensorT()
        entry.name = (name or f"t{number}").encode()
        entry.shape = list(shape)
        entry.type = TYPES[dtype]
        entry.buffer = 0
        self._graph.tensors.append(entry)
        self._shapes.append(tuple(shape))
        return number

    def constant(self, value: NDArray[Any], name: str = "") -> int:
        """float32 or int32; equal constants are stored once."""
        key = (value.dtype.name, value.shape, value.tobytes())
        if key not in self._constants:
            buffer = _AlignedBuffer()
            buffer.data = np.frombuffer(key[2], np.uint8)
            self._constants[key] = self.tensor(value.shape, name, key[0])
            self._graph.tensors[self._constants[key]].buffer = len(self._model.buffers)
            self._model.buffers.append(buffer)
        return self._constants[key]

    def integers(self, *values: int) -> int:
        """(n,) int32 constant: axes, shapes, permutations."""
        return self.constant(np.asarray(values, np.int32))

    def scalar(self, value: float) -> int:
        """() float32 constant."""
        return self.constant(np.asarray(value, np.float32))

    def operator(
        self,
        name: str,
        inputs: list[int],
        shape: Shape,
        options: Any = None,
        *,
        version: int = 1,
        dtype: str = "float32",
    ) -> int:
        """Append a built-in operator (its name in schema.fbs) with one result -> the result's number."""
        result = self.tensor(shape, dtype=dtype)
        entry = schema.OperatorT()
        entry.opcodeIndex = self._code(name, version)
        entry.inputs = list(inputs)
        entry.outputs = [result]
        if options is not None:
            entry.builtinOptionsType = getattr(schema.BuiltinOptions, type(options).__name__.removesuffix("T"))
            entry.builtinOptions = options
        self._graph.operators.append(entry)
        return result

    def reshape(self, tensor: int, shape: Shape) -> int:
        if self.shape(tensor) == tuple(shape):
            return tensor
        return self.copy(tensor, shape)

    def copy(self, tensor: int, shape: Shape) -> int:
        """RESHAPE even to the same shape: a tensor of its own."""
        assert math.prod(self.shape(tensor)) == math.prod(shape)
        options = schema.ReshapeOptionsT()
        options.newShape = list(shape)
        return self.operator("RESHAPE", [tensor, self.integers(*shape)], shape, options)

    def transpose(self, tensor: int, perm: Shape) -> int:
        """A RESHAPE where only axes of size 1 move."""
        old = self.shape(tensor)
        new = tuple(old[axis] for axis in perm)
        moved = [axis for axis in perm if old[axis] != 1]
        if moved == sorted(moved):
            return self.reshape(tensor, new)
        return self.operator("TRANSPOSE", [tensor, self.integers(*perm)], new, schema.TransposeOptionsT())

    def finish(self, inputs: list[int], outputs: list[int]) -> bytes:
        self._graph.inputs = list(inputs)
        self._graph.outputs = list(outputs)
        builder = flatbuffers.Builder(1 << 16)
        builder.Finish(self._model.Pack(builder), IDENTIFIER)
        return bytes(builder.Output())

    def _code(self, name: str, version: int) -> int:
        if (name, version) not in self._codes:
            entry = schema.OperatorCodeT()
            entry.builtinCode = getattr(schema.BuiltinOperator, name)
            entry.deprecatedBuiltinCode = min(entry.builtinCode, LARGEST_OLD_CODE)
            entry.version = version
            self._codes[name, version] = len(self._model.operatorCodes)
            self._model.operatorCodes.append(entry)
        return self._codes[name, version]
