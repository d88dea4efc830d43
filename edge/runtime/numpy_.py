"""The flat graph in numpy alone: for boards with no wheel at all (armv6), and the reference of every op's meaning.

A graph is compiled once to a list of calls on numbered slots; a tensor is dropped after its last use, so that a step
holds little more than the tensors its backward pass needs. A convolution is an unfolding (im2col) and a matrix
product; the unfolded input is shared by the forward pass and the weight's gradient.

Letters: B batch, C and O channels in and out, (H, W) and (H', W') image in and out, (h, w) kernel,
K = C h w, N = H' W'; `columns` are an unfolded image.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import numpy as np

from edge.runtime.graph import FloatArray, Graph, Node, Shape
from edge.runtime.program import Program
from edge.runtime.state import TensorRuntime

Kernel: TypeAlias = Callable[..., FloatArray]
Shapes: TypeAlias = dict[str, Shape]
Bind: TypeAlias = Callable[[Node, Shapes], Kernel]
"""Reads a node's attributes and shapes once, returns what runs at every step."""

# ---------------------------------------------------------------- elementwise, reductions, shapes


def _sigmoid(x: FloatArray) -> FloatArray:
    y: FloatArray = np.float32(0.5) * (np.tanh(np.float32(0.5) * x) + np.float32(1))  # no overflow for large negative x
    return y


def _relu(x: FloatArray) -> FloatArray:
    return np.maximum(x, np.float32(0))


def _relu_grad(g: FloatArray, y: FloatArray) -> FloatArray:
    return g * (y > 0)


def _log_softmax(x: FloatArray) -> FloatArray:
    shifted: FloatArray = x - x.max(axis=-1, keepdims=True)
    shifted -= np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    return shifted


def _softmax(x: FloatArray) -> FloatArray:
    e: FloatArray = np.exp(x - x.max(axis=-1, keepdims=True))
    e /= e.sum(axis=-1, keepdims=True)
    return e


def _plain(kernel: Kernel) -> Bind:
    """An op without attributes."""

    def bind(node: Node, shapes: Shapes) -> Kernel:
        del node, shapes
        return kernel

    return bind


def _bind_sum(node: Node, shapes: Shapes) -> Kernel:
    axes, keepdims = tuple(node.attributes["axes"]), bool(node.attributes["keepdims"])
    if len(shapes[node.inputs[0]]) == 2 and axes == (0,):
        ones = np.ones((1, shapes[node.inputs[0]][0]), np.float32)  # a product is faster than a reduction over rows
        return lambda x: (ones @ x) if keepdims else (ones @ x)[0]
    if len(shapes[node.inputs[0]]) == 4 and axes == (0, 2, 3) and not keepdims:
        channels = shapes[node.inputs[0]][1]
        return lambda x: np.asarray(_last(x).reshape(channels, -1).sum(axis=1))  # contiguous, see `_last`
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
    return lambda a, b: (a.T if flip_a else a) @ (b.T if flip_b else b)


def _bind_gemm(node: Node, shapes: Shapes) -> Kernel:
    product = _bind_matmul(node, shapes)
    beta = np.float32(node.attributes["beta"])

    def kernel(a: FloatArray, b: FloatArray, c: FloatArray) -> FloatArray:
        y: FloatArray = product(a, b)
        y += c if beta == 1 else beta * c
        return y

    return kernel


# ---------------------------------------------------------------- convolution as unfolding and product
#
# Images between convolutions are views (B,C,H,W) of memory that lies batch-last, (C,H,W,B): unfolding then copies runs
# of W' B numbers instead of W', and each product is one large one instead of B small ones. Elementwise ops keep the
# order of what they are given. Their memory is kept from step to step (`_KEEPS_MEMORY`): getting megabytes from the
# system and giving them back cost more than filling them. (The 12,544-parameter step at batch 32 took 10.8 ms
# batch-first and takes 5.1 ms so; processor time on one busy x86 core.)


def _last(x: FloatArray) -> FloatArray:
    """(B,C,H,W) -> (C,H,W,B), a view."""
    return x.transpose(1, 2, 3, 0)


def _first(x: FloatArray) -> FloatArray:
    """(C,H,W,B) -> (B,C,H,W), a view."""
    return x.transpose(3, 0, 1, 2)


def _bind_unfold(node: Node, shapes: Shapes) -> Kernel:
    """Internal op: x (B,C,H,W) -> columns (K, N B)."""
    B, C, H, W = shapes[node.inputs[0]]
    (sy, sx), (py, px), (h, w) = (tuple(node.attributes[key]) for key in ("stride", "padding", "kernel"))
    rows, columns = (H + 2 * py - h) // sy + 1, (W + 2 * px - w) // sx + 1  # H', W'

    padded = np.zeros((C, H + 2 * py, W + 2 * px, B), np.float32)
    out = np.empty((C, h, w, rows, columns, B), np.float32)

    def kernel(x: FloatArray) -> FloatArray:
        padded[:, py : py + H, px : px + W] = _last(x)
        for i in range(h):
            for j in range(w):
                out[:, i, j] = padded[:, i : i + sy * rows : sy, j : j + sx * columns : sx]
        return out.reshape(C * h * w, rows * columns * B)

    return kernel


def _bind_unfolded_product(node: Node, shapes: Shapes) -> Kernel:
    """Internal op: columns (K, N B), w (O,C,h,w)[, b (O,)] -> (B,O,H',W')."""
    B, O, rows, columns_out = shapes[node.output]  # noqa: E741

    y = np.empty((O, rows * columns_out * B), np.float32)
    image = _first(y.reshape(O, rows, columns_out, B))

    def kernel(columns: FloatArray, w: FloatArray, b: FloatArray | None = None) -> FloatArray:
        np.matmul(w.reshape(O, -1), columns, out=y)  # (O,K) (K, N B) -> (O, N B)
        if b is not None:
            np.add(y, b[:, None], out=y)
        return image

    return kernel


def _bind_unfolded_dw(node: Node, shapes: Shapes) -> Kernel:
    """Internal op: g (B,O,H',W'), columns (K, N B) -> (O,C,h,w)."""
    shape = shapes[node.output]

    def kernel(g: FloatArray, columns: FloatArray) -> FloatArray:
        return np.asarray((_last(g).reshape(shape[0], -1) @ columns.T).reshape(shape))  # (O, N B) (N B, K) -> (O,K)

    return kernel


def _bind_conv2d_dx(node: Node, shapes: Shapes) -> Kernel:
    """From g (B,O,H',W'), w (O,C,h,w) to (B,C,H,W): fold the columns' gradient back."""
    B, O, rows, columns = shapes[node.inputs[0]]  # noqa: E741
    _, C, h, w = shapes[node.inputs[1]]
    _, _, H, W = shapes[node.output]
    (sy, sx), (py, px) = (tuple(node.attributes[key]) for key in ("stride", "padding"))

    parts = np.empty((C, h, w, rows, columns, B), np.float32)
    folded = parts.reshape(C * h * w, -1)
    dx = np.zeros((C, H + 2 * py, W + 2 * px, B), np.float32)
    image = _first(dx[:, py : py + H, px : px + W])

    def kernel(g: FloatArray, weight: FloatArray) -> FloatArray:
        np.matmul(weight.reshape(O, -1).T, _last(g).reshape(O, -1), out=folded)  # (K,O) (O, N B) -> (K, N B)
        dx.fill(0)
        for i in range(h):
            for j in range(w):
                dx[:, i : i + sy * rows : sy, j : j + sx * columns : sx] += parts[:, i, j]
        return image

    return kernel


# ---------------------------------------------------------------- pooling


def _window(x: FloatArray, size: tuple[int, int], out: tuple[int, int]) -> list[FloatArray]:
    """The h w strided views of x (B,C,H,W), each (B,C,H',W'), in row-major order of the window."""
    (h, w), (rows, columns) = size, out
    return [x[:, :, i : h * rows : h, j : w * columns : w] for i in range(h) for j in range(w)]


def _bind_max_pool2d(node: Node, shapes: Shapes) -> Kernel:
    size = _pair(node.attributes["size"])
    out = _pair(shapes[node.output][2:])

    def kernel(x: FloatArray) -> FloatArray:
        views = _window(x, size, out)
        y = views[0].copy(order="K")
        for view in views[1:]:
            np.maximum(y, view, out=y)
        return y

    return kernel


def _bind_max_pool2d_grad(node: Node, shapes: Shapes) -> Kernel:
    size = _pair(node.attributes["size"])
    out = _pair(shapes[node.inputs[0]][2:])
    B, C, H, W = shapes[node.output]
    dx = _first(np.zeros((C, H, W, B), np.float32))  # what the windows cut off stays zero

    def kernel(g: FloatArray, x: FloatArray, y: FloatArray) -> FloatArray:
        left = g.copy(order="K")  # what no element of the window has taken yet: the first maximum takes all
        for view, target in zip(_window(x, size, out), _window(dx, size, out), strict=True):
            np.multiply(left, view == y, out=target)
            left -= target
        return dx

    return kernel


def _pair(values: Sequence[int]) -> tuple[int, int]:
    first, second = values
    return int(first), int(second)


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
    "softmax": _plain(_softmax),
    "log_softmax": _plain(_log_softmax),
    "sum": _bind_sum,
    "max": _bind_max,
    "max_grad": _bind_max_grad,
    "matmul": _bind_matmul,
    "gemm": _bind_gemm,
    "reshape": _bind_reshape,
    "transpose": _bind_transpose,
    "expand": _bind_expand,
    "conv2d_dx": _bind_conv2d_dx,
    "max_pool2d": _bind_max_pool2d,
    "max_pool2d_grad": _bind_max_pool2d_grad,
    "concat": _bind_concat,
    "slice": _bind_slice,
    "unfold": _bind_unfold,
    "unfolded_product": _bind_unfolded_product,
    "unfolded_dw": _bind_unfolded_dw,
}


_KEEPS_MEMORY = frozenset({"unfolded_product", "conv2d_dx", "max_pool2d_grad"})
"""Ops whose result the next step overwrites: where one is a graph's output, it is copied."""


@dataclass(frozen=True, slots=True)
class _Call:
    kernel: Kernel
    inputs: tuple[int, ...]
    output: int
    dead: tuple[int, ...]
    """Slots nobody reads after this call."""


class Executable:
    """A graph, compiled; `run` is pure: arrays in the order of the graph's inputs -> arrays in that of its outputs."""

    def __init__(self, graph: Graph) -> None:
        """Raises ValueError on an op that the table of `edge.runtime.graph` does not know."""
        nodes, shapes = _share_unfolding(graph)
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
                tuple(slots[name] for name in node.inputs),
                slots[node.output],
                tuple(slots[name] for name in names_dead),
            )
            for node, names_dead in zip(nodes, dead, strict=True)
        ]

    def run(self, inputs: Sequence[FloatArray]) -> list[FloatArray]:
        values = self._template.copy()
        values[: self._inputs] = inputs
        for call in self._calls:
            values[call.output] = call.kernel(*[values[slot] for slot in call.inputs])
            for slot in call.dead:
                values[slot] = None
        found = zip(self._outputs, self._copied, strict=True)
        return [values[slot].copy() if copied else values[slot] for slot, copied in found]


def _bind(node: Node, shapes: Shapes) -> Kernel:
    if node.op not in _BINDERS:
        raise ValueError(f"op {node.op!r} is not one of this version's: compile the program again with this version")
    return _BINDERS[node.op](node, shapes)


def _kept(nodes: Sequence[Node]) -> set[str]:
    """Tensors in memory that the next step overwrites: results of `_KEEPS_MEMORY` and views of them."""
    kept: set[str] = set()
    for node in nodes:
        is_view = node.op in {"reshape", "transpose", "expand", "slice"} and node.inputs[0] in kept
        if node.op in _KEEPS_MEMORY or is_view:
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


def _share_unfolding(graph: Graph) -> tuple[list[Node], Shapes]:
    """Split conv2d and conv2d_dw into `unfold` (once for each input, kernel, stride and padding) and a product."""
    nodes: list[Node] = []
    shapes = dict(graph.shapes)
    known: dict[tuple[str, str], str] = {}

    def unfold(node: Node, x: str, kernel: Shape) -> str:
        attributes = {key: list(node.attributes[key]) for key in ("stride", "padding")} | {"kernel": list(kernel)}
        key = (x, str(attributes))
        if key not in known:
            known[key] = f"{x}/unfold{len(known)}"
            nodes.append(Node(op="unfold", inputs=(x,), output=known[key], attributes=attributes))
        return known[key]

    for node in graph.nodes:
        if node.op == "conv2d":
            columns = unfold(node, node.inputs[0], shapes[node.inputs[1]][2:])
            nodes.append(replace(node, op="unfolded_product", inputs=(columns, *node.inputs[1:])))
        elif node.op == "conv2d_dw":
            columns = unfold(node, node.inputs[1], shapes[node.output][2:])
            nodes.append(replace(node, op="unfolded_dw", inputs=(node.inputs[0], columns)))
        else:
            nodes.append(node)
    return nodes, shapes


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
