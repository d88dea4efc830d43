"""The flat graph in numpy alone: for boards with no wheel at all (armv6), and the reference of every op's meaning.

A graph is compiled once to a list of calls on numbered slots; a tensor is dropped after its last use, so that a step
holds little more than the tensors its backward pass needs. Images have a module of their own,
`edge.runtime.numpy_images`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from operator import itemgetter
from typing import Any, NamedTuple

import numpy as np

from edge.runtime import numpy_images as images
from edge.runtime.graph import FloatArray, Graph, Node, Shape
from edge.runtime.numpy_images import Bind, Kernel, Shapes
from edge.runtime.program import Program
from edge.runtime.state import TensorRuntime

# ---------------------------------------------------------------- elementwise, reductions, shapes


def _sigmoid(x: FloatArray) -> FloatArray:
    y: FloatArray = np.float32(0.5) * (np.tanh(np.float32(0.5) * x) + np.float32(1))  # no overflow for large negative x
    return y


def _relu(x: FloatArray) -> FloatArray:
    return np.maximum(x, np.float32(0))


def _relu_grad(g: FloatArray, y: FloatArray) -> FloatArray:
    return g * (y > 0)


def _bind_log_softmax(node: Node, shapes: Shapes) -> Kernel:
    ones = _ones_for_rows(shapes[node.inputs[0]])

    def kernel(x: FloatArray) -> FloatArray:
        shifted: FloatArray = x - np.maximum.reduce(x, axis=-1, keepdims=True)
        shifted -= np.log(np.exp(shifted).dot(ones))
        return shifted

    return kernel


def _bind_softmax(node: Node, shapes: Shapes) -> Kernel:
    ones = _ones_for_rows(shapes[node.inputs[0]])

    def kernel(x: FloatArray) -> FloatArray:
        e: FloatArray = np.exp(x - np.maximum.reduce(x, axis=-1, keepdims=True))
        e /= e.dot(ones)
        return e

    return kernel


def _ones_for_rows(shape: Shape) -> FloatArray:
    """(..., L) -> (L, 1) whose product with such a tensor sums its last axis: faster than a reduction of short rows."""
    return np.ones((shape[-1], 1), np.float32)


def _plain(kernel: Kernel) -> Bind:
    """An op without attributes."""

    def bind(node: Node, shapes: Shapes) -> Kernel:
        del node, shapes
        return kernel

    return bind


def _bind_sum(node: Node, shapes: Shapes) -> Kernel:
    axes, keepdims = tuple(node.attributes["axes"]), bool(node.attributes["keepdims"])
    if len(shapes[node.inputs[0]]) == 2 and axes == (0,):
        ones = np.ones(shapes[node.inputs[0]][0], np.float32)  # a product is faster than a reduction over rows
        return lambda x: ones.dot(x)[None] if keepdims else ones.dot(x)
    if len(shapes[node.inputs[0]]) == 2 and axes == (1,):
        ones = _ones_for_rows(shapes[node.inputs[0]])
        return lambda x: x.dot(ones) if keepdims else x.dot(ones)[:, 0]
    if len(shapes[node.inputs[0]]) == 4 and axes == (0, 2, 3) and not keepdims:
        channels = shapes[node.inputs[0]][1]
        return lambda x: np.asarray(images.last(x).reshape(channels, -1).sum(axis=1))  # contiguous, see `images.last`
    return lambda x: np.asarray(x.sum(axis=axes, keepdims=keepdims))


def _bind_max(node: Node, shapes: Shapes) -> Kernel:
    del shapes
    axes, keepdims = tuple(node.attributes["axes"]), bool(node.attributes["keepdims"])
    return lambda x: np.asarray(x.max(axis=axes, keepdims=keepdims))


def _bind_max_grad(node: Node, shapes: Shapes) -> Kernel:
    del shapes
    axes = tuple(node.attributes["axes"])

    def kernel(g: FloatArray, x: FloatArray, y: FloatArray) -> FloatArray:
        hit: FloatArray = (x == y).astype(np.float32)
        hit *= g / hit.sum(axis=axes, keepdims=True)
        return hit

    return kernel


def _bind_reshape(node: Node, shapes: Shapes) -> Kernel:
    shape = shapes[node.output]
    return lambda x: x.reshape(shape)


def _bind_transpose(node: Node, shapes: Shapes) -> Kernel:
    del shapes
    perm = tuple(node.attributes["perm"])
    return lambda x: x.transpose(perm)


def _bind_expand(node: Node, shapes: Shapes) -> Kernel:
    shape = shapes[node.output]
    return lambda x: np.broadcast_to(x, shape)


def _bind_concat(node: Node, shapes: Shapes) -> Kernel:
    del shapes
    axis = int(node.attributes["axis"])
    return lambda *parts: np.concatenate(parts, axis=axis)


def _bind_slice(node: Node, shapes: Shapes) -> Kernel:
    axis, start, stop = (int(node.attributes[key]) for key in ("axis", "start", "stop"))
    index = (slice(None),) * axis + (slice(start, stop),)
    del shapes
    return lambda x: x[index]


# ---------------------------------------------------------------- matrix products


def _bind_matmul(node: Node, shapes: Shapes) -> Kernel:
    del shapes
    flip_a, flip_b = bool(node.attributes["transpose_a"]), bool(node.attributes["transpose_b"])
    return lambda a, b: (a.T if flip_a else a).dot(b.T if flip_b else b)  # of small matrices faster than `@`


def _bind_gemm(node: Node, shapes: Shapes) -> Kernel:
    product = _bind_matmul(node, shapes)
    beta = float(node.attributes["beta"])

    def kernel(a: FloatArray, b: FloatArray, c: FloatArray) -> FloatArray:
        y: FloatArray = product(a, b)
        y += c if beta == 1 else np.float32(beta) * c
        return y

    return kernel


# ---------------------------------------------------------------- the table and the compiled graph

_BINDERS: dict[str, Bind] = {
    "add": _plain(np.add),
    "sub": _plain(np.subtract),
    "mul": _plain(np.multiply),
    "div": _plain(np.divide),
    "maximum": _plain(np.maximum),
    "neg": _plain(np.negative),
    "exp": _plain(np.exp),
    "log": _plain(np.log),
    "sqrt": _plain(np.sqrt),
    "tanh": _plain(np.tanh),
    "sigmoid": _plain(_sigmoid),
    "relu": _plain(_relu),
    "relu_grad": _plain(_relu_grad),
    "softmax": _bind_softmax,
    "log_softmax": _bind_log_softmax,
    "sum": _bind_sum,
    "max": _bind_max,
    "max_grad": _bind_max_grad,
    "matmul": _bind_matmul,
    "gemm": _bind_gemm,
    "reshape": _bind_reshape,
    "transpose": _bind_transpose,
    "expand": _bind_expand,
    "concat": _bind_concat,
    "slice": _bind_slice,
    **images.BINDERS,
}


class _Call(NamedTuple):
    kernel: Kernel
    take: Callable[[list[Any]], Sequence[Any]]
    """Its inputs out of the slots."""
    output: int
    dead: tuple[int, ...]
    """Slots nobody reads after this call."""


class Executable:
    """A graph, compiled; `run` is pure: arrays in the order of the graph's inputs -> arrays in that of its outputs."""

    def __init__(self, graph: Graph) -> None:
        """Raises ValueError on an op that the table of `edge.runtime.graph` does not know."""
        nodes, shapes = images.plan_images(graph)
        names = [*graph.inputs, *graph.constants, *(node.output for node in nodes)]
        slots = {name: slot for slot, name in enumerate(names)}
        self._template: list[Any] = [None] * len(graph.inputs) + list(graph.constants.values()) + [None] * len(nodes)
        self._inputs = len(graph.inputs)
        self._outputs = [slots[name] for name in graph.outputs]
        kept = _kept(nodes)
        self._copied = [name in kept for name in graph.outputs]
        dead = _last_uses(nodes, keep={*graph.inputs, *graph.constants, *graph.outputs})
        self._calls = [
            _Call(
                _bind(node, shapes),
                _taker([slots[name] for name in node.inputs]),
                slots[node.output],
                tuple(slots[name] for name in names_dead),
            )
            for node, names_dead in zip(nodes, dead, strict=True)
        ]

    def run(self, inputs: Sequence[FloatArray]) -> list[FloatArray]:
        values = self._template.copy()
        values[: self._inputs] = inputs
        for kernel, take, output, dead in self._calls:
            values[output] = kernel(*take(values))
            for slot in dead:
                values[slot] = None
        found = zip(self._outputs, self._copied, strict=True)
        return [values[slot].copy() if copied else values[slot] for slot, copied in found]


def _taker(slots: Sequence[int]) -> Callable[[list[Any]], Sequence[Any]]:
    """What takes the values of these slots (at least one); in C, for it happens at every op of every step."""
    if len(slots) == 1:  # of one index an itemgetter returns no sequence
        return itemgetter(slice(slots[0], slots[0] + 1))
    return itemgetter(*slots)


def _bind(node: Node, shapes: Shapes) -> Kernel:
    if node.op not in _BINDERS:
        raise ValueError(f"op {node.op!r} is not one of this version's: compile the program again with this version")
    return _BINDERS[node.op](node, shapes)


def _kept(nodes: Sequence[Node]) -> set[str]:
    """Tensors in memory that the next step overwrites: results of `images.KEEPS_MEMORY` and views of them."""
    kept: set[str] = set()
    for node in nodes:
        is_view = node.op in {"reshape", "transpose", "expand", "slice"} and node.inputs[0] in kept
        if node.op in images.KEEPS_MEMORY or is_view:
            kept.add(node.output)
    return kept


def _last_uses(nodes: Sequence[Node], keep: set[str]) -> list[list[str]]:
    """For each node the tensors that nobody reads after it."""
    seen = set(keep)
    dead: list[list[str]] = []
    for node in reversed(nodes):
        last = [name for name in dict.fromkeys((*node.inputs, node.output)) if name not in seen]
        seen.update(last)
        dead.append(last)
    return dead[::-1]


class NumpyRuntime(TensorRuntime):
    """The program's flat graphs on numpy. Raises ProgramRefused on a malformed graph."""

    def __init__(self, program: Program) -> None:
        super().__init__(program, f"numpy {np.__version__}")
        self._train = Executable(program.graph("train"))
        self._predict: Executable | None = None

    def _step(
        self, tensors: list[FloatArray], x: FloatArray, target: FloatArray, lr: FloatArray
    ) -> tuple[list[FloatArray], float, FloatArray]:
        *new, loss, logits = self._train.run([*tensors, x, target, lr])
        return new, float(loss), logits

    def _forward(self, parameters: list[FloatArray], x: FloatArray) -> FloatArray:
        if self._predict is None:
            self._predict = Executable(self._program.graph("predict"))
        return self._predict.run([*parameters, x])[0]
