"""The op table of `edge.runtime.graph` as code: every op's result shape, and the check of a whole graph.

A device refuses a malformed graph here, before a runtime sees it. Letters as in `edge.runtime.graph`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np

from edge.runtime.graph import Graph, Node, Shape

Attributes: TypeAlias = Mapping[str, Any]
Rule: TypeAlias = Callable[[Sequence[Shape], Attributes], Shape]

MAX_ELEMENTS = 2**28
"""Of one tensor (1 GiB of float32): beyond every board this is for; a graph that asks for more is refused."""


def infer(op: str, shapes: Sequence[Shape], attributes: Attributes) -> Shape:
    """Shape of the result. Raises ValueError on an unknown op, wrong inputs or wrong attributes."""
    if op not in OPS:
        raise ValueError(f"unknown op {op!r}: compile the program again with this version of Potstill")
    inputs, keys, rule = OPS[op]
    if len(shapes) not in inputs:
        raise ValueError(f"{op} takes {inputs.start} to {inputs.stop - 1} inputs, not {len(shapes)}")
    if set(attributes) != set(keys):
        raise ValueError(f"{op} has the attributes {list(keys)}, not {list(attributes)}")
    for key, value in attributes.items():
        _check_attribute(op, key, value)
    shape = rule(shapes, attributes)
    if min(shape, default=1) < 1 or _elements(shape) > MAX_ELEMENTS:
        raise ValueError(f"{op} of {list(shapes)} with {dict(attributes)} has the impossible shape {shape}")
    return shape


def check_graph(graph: Graph) -> None:
    """Raises ValueError that names the first thing wrong: names, order, ops, attributes, shapes."""
    if len(set(graph.inputs)) != len(graph.inputs) or len(set(graph.outputs)) != len(graph.outputs):
        raise ValueError("a graph's inputs and its outputs have different names")
    known = set(graph.inputs)
    for name, value in graph.constants.items():
        _require_new(name, known)
        if graph.shapes.get(name) != value.shape or not np.isfinite(value).all():
            raise ValueError(f"constant {name!r} is finite and of the shape it declares")
    for name in graph.inputs:
        shape = graph.shapes.get(name)
        if shape is None or min(shape, default=1) < 1 or _elements(shape) > MAX_ELEMENTS:
            raise ValueError(f"input {name!r} has no possible shape: {shape}")
    for node in graph.nodes:
        _check_node(node, graph, known)
    computed = {node.output for node in graph.nodes}
    missing = [name for name in graph.outputs if name not in computed]
    if missing:
        raise ValueError(f"no node computes the outputs {missing}")


def _check_node(node: Node, graph: Graph, known: set[str]) -> None:
    unknown = [name for name in node.inputs if name not in known]
    if unknown:
        raise ValueError(f"{node.op} -> {node.output!r} reads {unknown}, which nothing before it computes")
    _require_new(node.output, known)
    shape = infer(node.op, [graph.shapes[name] for name in node.inputs], node.attributes)
    if graph.shapes.get(node.output) != shape:
        raise ValueError(f"{node.op} -> {node.output!r} declares {graph.shapes.get(node.output)} but yields {shape}")


def _require_new(name: str, known: set[str]) -> None:
    if name in known:
        raise ValueError(f"the name {name!r} is taken twice")
    known.add(name)


def _elements(shape: Shape) -> int:
    count = 1
    for side in shape:
        count *= side
    return count


_PAIRS = ("stride", "padding", "size")
_LISTS = ("axes", "shape", "perm", *_PAIRS)
_FLAGS = ("keepdims", "transpose_a", "transpose_b")


def _check_attribute(op: str, key: str, value: Any) -> None:
    if key in _LISTS:
        good = isinstance(value, list) and all(type(item) is int for item in value)
        good = good and (key not in _PAIRS or (len(value) == 2 and min(value) >= (key != "padding")))
    elif key in _FLAGS:
        good = isinstance(value, bool)
    elif key == "beta":
        good = isinstance(value, float) and bool(np.isfinite(value))
    else:
        good = type(value) is int
    if not good:
        raise ValueError(f"{op}: {key} = {value!r} is not what this attribute can be")


# ---------------------------------------------------------------- one rule a group of ops


def _broadcast(shapes: Sequence[Shape], attributes: Attributes) -> Shape:
    del attributes
    return tuple(np.broadcast_shapes(*shapes))


def _same(shapes: Sequence[Shape], attributes: Attributes) -> Shape:
    del attributes
    return shapes[0]


def _twins(shapes: Sequence[Shape], attributes: Attributes) -> Shape:
    if shapes[0] != shapes[1]:
        raise ValueError(f"gradient {shapes[0]} and tensor {shapes[1]} differ in shape")
    return _same(shapes, attributes)


def _rows(shapes: Sequence[Shape], attributes: Attributes) -> Shape:
    if not shapes[0]:
        raise ValueError("a softmax needs an axis")
    return _same(shapes, attributes)


def _reduced(shape: Shape, axes: Sequence[int], keepdims: bool) -> Shape:
    if list(axes) != sorted(set(axes)) or not all(0 <= axis < len(shape) for axis in axes):
        raise ValueError(f"axes {list(axes)} of a tensor of shape {shape}: sorted, each once, none negative")
    kept = [1 if axis in axes else side for axis, side in enumerate(shape) if keepdims or axis not in axes]
    return tuple(kept)


def _reduce(shapes: Sequence[Shape], attributes: Attributes) -> Shape:
    return _reduced(shapes[0], attributes["axes"], attributes["keepdims"])


def _max_grad(shapes: Sequence[Shape], attributes: Attributes) -> Shape:
    g, x, y = shapes
    if not (g == y == _reduced(x, attributes["axes"], keepdims=True)):
        raise ValueError(f"gradient {g}, tensor {x} and maximum {y} do not fit")
    return x


def _matmul(shapes: Sequence[Shape], attributes: Attributes) -> Shape:
    a, b = shapes[:2]
    if len(a) != 2 or len(b) != 2:
        raise ValueError(f"a product of matrices, not of {a} and {b}")
    rows, inner = a[::-1] if attributes["transpose_a"] else a
    inner_b, columns = b[::-1] if attributes["transpose_b"] else b
    if inner != inner_b:
        raise ValueError(f"the product of {a} and {b} does not exist")
    return rows, columns


def _gemm(shapes: Sequence[Shape], attributes: Attributes) -> Shape:
    shape = _matmul(shapes, attributes)
    if tuple(np.broadcast_shapes(shape, shapes[2])) != shape:
        raise ValueError(f"{shapes[2]} does not broadcast to the product's {shape}")
    return shape


def _reshape(shapes: Sequence[Shape], attributes: Attributes) -> Shape:
    shape = tuple(attributes["shape"])
    if min(shape, default=1) < 1 or _elements(shape) != _elements(shapes[0]):
        raise ValueError(f"{shapes[0]} cannot be reshaped to {shape}")
    return shape


def _transpose(shapes: Sequence[Shape], attributes: Attributes) -> Shape:
    perm = attributes["perm"]
    if sorted(perm) != list(range(len(shapes[0]))):
        raise ValueError(f"{perm} is no permutation of the axes of {shapes[0]}")
    return tuple(shapes[0][axis] for axis in perm)


def _expand(shapes: Sequence[Shape], attributes: Attributes) -> Shape:
    shape = tuple(attributes["shape"])
    if min(shape, default=1) < 1 or tuple(np.broadcast_shapes(shapes[0], shape)) != shape:
        raise ValueError(f"{shapes[0]} does not broadcast to {shape}")
    return shape


def _image(x: Shape, w: Shape, attributes: Attributes) -> Shape:
    """(B,C,H,W), (O,C,h,w) -> (B,O,H',W')."""
    if len(x) != 4 or len(w) != 4 or x[1] != w[1]:
        raise ValueError(f"no convolution of {x} with {w}: (B,C,H,W) with (O,C,h,w)")
    sides = [
        (side + 2 * pad - kernel) // stride + 1
        for side, kernel, stride, pad in zip(x[2:], w[2:], attributes["stride"], attributes["padding"], strict=True)
    ]
    if min(sides) < 1:
        raise ValueError(f"the kernel {w[2:]} is larger than the image {x[2:]}")
    return (x[0], w[0], *sides)


def _conv2d(shapes: Sequence[Shape], attributes: Attributes) -> Shape:
    shape = _image(shapes[0], shapes[1], attributes)
    if len(shapes) == 3 and shapes[2] != shape[1:2]:
        raise ValueError(f"a bias of {shapes[2]} for {shape[1]} channels")
    return shape


def _conv2d_dx(shapes: Sequence[Shape], attributes: Attributes) -> Shape:
    g, w = shapes
    x = tuple(attributes["shape"])
    if _image(x, w, attributes) != g:
        raise ValueError(f"{g} is no gradient of the convolution of {x} with {w}")
    return x


def _conv2d_dw(shapes: Sequence[Shape], attributes: Attributes) -> Shape:
    g, x = shapes
    w = tuple(attributes["shape"])
    if _image(x, w, attributes) != g:
        raise ValueError(f"{g} is no gradient of the convolution of {x} with {w}")
    return w


def _max_pool2d(shapes: Sequence[Shape], attributes: Attributes) -> Shape:
    if len(shapes[0]) != 4:
        raise ValueError(f"pooling takes (B,C,H,W), not {shapes[0]}")
    B, C, H, W = shapes[0]
    h, w = attributes["size"]
    return B, C, H // h, W // w


def _max_pool2d_grad(shapes: Sequence[Shape], attributes: Attributes) -> Shape:
    g, x, y = shapes
    if not (g == y == _max_pool2d([x], attributes)):
        raise ValueError(f"gradient {g}, tensor {x} and maximum {y} do not fit")
    return x


def _concat(shapes: Sequence[Shape], attributes: Attributes) -> Shape:
    axis = attributes["axis"]
    first = shapes[0]
    others = {shape[:axis] + shape[axis + 1 :] for shape in shapes}
    if not 0 <= axis < len(first) or len(others) != 1 or {len(shape) for shape in shapes} != {len(first)}:
        raise ValueError(f"{list(shapes)} cannot be joined along axis {axis}")
    return (*first[:axis], sum(shape[axis] for shape in shapes), *first[axis + 1 :])


def _slice(shapes: Sequence[Shape], attributes: Attributes) -> Shape:
    axis, start, stop = attributes["axis"], attributes["start"], attributes["stop"]
    shape = shapes[0]
    if not 0 <= axis < len(shape) or not 0 <= start < stop <= shape[axis]:
        raise ValueError(f"{shape} has no part {start}:{stop} along axis {axis}")
    return (*shape[:axis], stop - start, *shape[axis + 1 :])


_PRODUCT = ("transpose_a", "transpose_b")
_WINDOW = ("stride", "padding")

OPS: dict[str, tuple[range, tuple[str, ...], Rule]] = {
    **dict.fromkeys(("add", "sub", "mul", "div", "maximum"), (range(2, 3), (), _broadcast)),
    **dict.fromkeys(("neg", "exp", "log", "sqrt", "tanh", "sigmoid", "relu"), (range(1, 2), (), _same)),
    **dict.fromkeys(("softmax", "log_softmax"), (range(1, 2), (), _rows)),
    "relu_grad": (range(2, 3), (), _twins),
    **dict.fromkeys(("sum", "max"), (range(1, 2), ("axes", "keepdims"), _reduce)),
    "max_grad": (range(3, 4), ("axes",), _max_grad),
    "matmul": (range(2, 3), _PRODUCT, _matmul),
    "gemm": (range(3, 4), (*_PRODUCT, "beta"), _gemm),
    "reshape": (range(1, 2), ("shape",), _reshape),
    "transpose": (range(1, 2), ("perm",), _transpose),
    "expand": (range(1, 2), ("shape",), _expand),
    "conv2d": (range(2, 4), _WINDOW, _conv2d),
    "conv2d_dx": (range(2, 3), (*_WINDOW, "shape"), _conv2d_dx),
    "conv2d_dw": (range(2, 3), (*_WINDOW, "shape"), _conv2d_dw),
    "max_pool2d": (range(1, 2), ("size",), _max_pool2d),
    "max_pool2d_grad": (range(3, 4), ("size",), _max_pool2d_grad),
    "concat": (range(1, 1025), ("axis",), _concat),
    "slice": (range(1, 2), ("axis", "start", "stop"), _slice),
}
"""op -> how many inputs, which attributes (all of them, no others), the result's shape."""
