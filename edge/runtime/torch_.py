"""The flat graph on torch's functions: for boards with memory to spare, and as another independent executor."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional, grad

from edge.runtime.graph import FloatArray, Graph, Node
from edge.runtime.program import Program
from edge.runtime.state import TensorRuntime

Kernel: TypeAlias = Callable[..., Tensor]
Attributes: TypeAlias = dict[str, Any]


def _max_grad(g: Tensor, x: Tensor, y: Tensor, axes: list[int]) -> Tensor:
    hit = (x == y).to(x.dtype)
    return hit * (g / hit.sum(dim=axes, keepdim=True))


def _matmul(a: Tensor, b: Tensor, transpose_a: bool, transpose_b: bool) -> Tensor:
    return (a.T if transpose_a else a) @ (b.T if transpose_b else b)


def _gemm(a: Tensor, b: Tensor, c: Tensor, *, transpose_a: bool, transpose_b: bool, beta: float) -> Tensor:
    return torch.addmm(c, a.T if transpose_a else a, b.T if transpose_b else b, beta=beta)


def _conv2d(x: Tensor, w: Tensor, b: Tensor | None = None, *, stride: list[int], padding: list[int]) -> Tensor:
    return functional.conv2d(x, w, b, stride=stride, padding=padding)


def _conv2d_dx(g: Tensor, w: Tensor, stride: list[int], padding: list[int], shape: list[int]) -> Tensor:
    dx: Tensor = grad.conv2d_input(shape, w, g, stride=stride, padding=padding)  # type: ignore[no-untyped-call]
    return dx


def _conv2d_dw(g: Tensor, x: Tensor, stride: list[int], padding: list[int], shape: list[int]) -> Tensor:
    dw: Tensor = grad.conv2d_weight(x, shape, g, stride=stride, padding=padding)  # type: ignore[no-untyped-call]
    return dw


def _max_pool2d_grad(g: Tensor, x: Tensor, y: Tensor, size: list[int]) -> Tensor:
    del y
    _, indices = functional.max_pool2d_with_indices(x, size)
    backward = torch.ops.aten.max_pool2d_with_indices_backward
    dx: Tensor = backward(g, x, size, size, [0, 0], [1, 1], False, indices)
    return dx


KERNELS: dict[str, Kernel] = {
    "add": torch.add,
    "sub": torch.sub,
    "mul": torch.mul,
    "div": torch.div,
    "maximum": torch.maximum,
    "neg": torch.neg,
    "exp": torch.exp,
    "log": torch.log,
    "sqrt": torch.sqrt,
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
    "relu": torch.relu,
    "relu_grad": lambda g, y: g * (y > 0),
    "softmax": lambda x: torch.softmax(x, -1),
    "log_softmax": lambda x: torch.log_softmax(x, -1),
    "sum": lambda x, axes, keepdims: x.sum(dim=axes, keepdim=keepdims),
    "max": lambda x, axes, keepdims: x.amax(dim=axes, keepdim=keepdims),
    "max_grad": _max_grad,
    "matmul": _matmul,
    "gemm": _gemm,
    "reshape": lambda x, shape: x.reshape(shape),
    "transpose": lambda x, perm: x.permute(perm),
    "expand": lambda x, shape: x.expand(shape),
    "conv2d": _conv2d,
    "conv2d_dx": _conv2d_dx,
    "conv2d_dw": _conv2d_dw,
    "max_pool2d": lambda x, size: functional.max_pool2d(x, kernel_size=size),
    "max_pool2d_grad": _max_pool2d_grad,
    "concat": lambda *parts, axis: torch.cat(parts, axis),
    "slice": lambda x, axis, start, stop: x.narrow(axis, start, stop - start),
}
"""By op: also what `trainer.ntk` differentiates, so that it looks at the very graph a fleet runs."""


class _Executable:
    def __init__(self, graph: Graph) -> None:
        self._graph = graph
        # torch.tensor copies: it warns of numpy's read-only memory
        self._constants = {name: torch.tensor(value) for name, value in graph.constants.items()}
        self._calls: list[tuple[Kernel, Node]] = [(KERNELS[node.op], node) for node in graph.nodes]

    def run(self, inputs: Sequence[Tensor]) -> list[FloatArray]:
        values = dict(zip(self._graph.inputs, inputs, strict=True)) | self._constants
        with torch.inference_mode():
            for kernel, node in self._calls:
                values[node.output] = kernel(*[values[name] for name in node.inputs], **node.attributes)
        return [values[name].numpy() for name in self._graph.outputs]


class TorchRuntime(TensorRuntime):
    """The program's flat graphs on torch, one thread: a device has other work too."""

    def __init__(self, program: Program) -> None:
        super().__init__(program, f"torch {torch.__version__.partition('+')[0]}")
        torch.set_num_threads(1)
        self._train = _Executable(program.graph("train"))
        self._predict = _Executable(program.graph("predict"))

    def _step(
        self, tensors: list[FloatArray], x: FloatArray, target: FloatArray, lr: FloatArray
    ) -> tuple[list[FloatArray], float, FloatArray]:
        *new, loss, logits = self._train.run([_tensor(array) for array in (*tensors, x, target, lr)])
        return new, float(loss), logits

    def _forward(self, parameters: list[FloatArray], x: FloatArray) -> FloatArray:
        return self._predict.run([_tensor(array) for array in (*parameters, x)])[0]


def _tensor(array: FloatArray) -> Tensor:
    """Shares the memory where it may be written to (torch warns of read-only arrays)."""
    return torch.from_numpy(array if array.flags.writeable else np.array(array))
